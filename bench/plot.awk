# Draws points as SVG: awk -f plot.awk -v title=T -v xtitle=X -v ytitle=Y [-v xlog=1] [-v ylog=1] [-v joined=1]
#
# Input: series, x, y, separated by tabs. joined: one dot for each x, at the median of its values, and a line through
# them. A vertical axis that is not logarithmic begins at 0. Works with any awk; no fonts or scripts but what a viewer has.

BEGIN {
    FS = "\t"
    width = 760; height = 420; left = 70; right = 20; top = 50; bottom = 60
    split("#c03020 #2060b0 #308040 #806020", colours, " ")
}

NF == 3 && (!xlog || $2 > 0) && (!ylog || $3 > 0) {
    if (!($1 in number)) { number[$1] = ++series_count; names[series_count] = $1 }
    series[++n] = number[$1]; x[n] = $2 + 0; y[n] = $3 + 0
}

function sort_by_x(    i, j, s, a, b) {
    for (i = 2; i <= n; i++) {
        s = series[i]; a = x[i]; b = y[i]
        for (j = i - 1; j >= 1 && (series[j] > s || (series[j] == s && (x[j] > a || (x[j] == a && y[j] > b)))); j--) {
            series[j + 1] = series[j]; x[j + 1] = x[j]; y[j + 1] = y[j]
        }
        series[j + 1] = s; x[j + 1] = a; y[j + 1] = b
    }
}

# Of the points of a series with one x the middle one is left.
function keep_medians(    i, first, kept) {
    for (i = 1; i <= n; i = first) {
        for (first = i; first <= n && series[first] == series[i] && x[first] == x[i]; first++)
            ;
        kept++
        series[kept] = series[i]; x[kept] = x[i]; y[kept] = y[int((i + first - 1) / 2)]
    }
    n = kept
}

# A round number of which about five make `span`.
function step_for(span,    power, part) {
    power = 10 ^ floor(log(span / 5) / log(10))
    part = span / 5 / power
    return power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10)
}

function floor(v) {
    return v < int(v) ? int(v) - 1 : int(v)
}

function scaled_x(v) {
    return xlog ? log(v) / log(10) : v
}

function scaled_y(v) {
    return ylog ? log(v) / log(10) : v
}

function at_x(v) {
    return left + (scaled_x(v) - low) / (high - low) * (width - left - right)
}

function at_y(v) {
    return height - bottom - (scaled_y(v) - base) / (most - base) * (height - top - bottom)
}

function line(x1, y1, x2, y2, colour) {
    printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour
}

function text(px, py, anchor, what, more) {
    printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", px, py, anchor, more, what
}

function plain(v) {
    if (v >= 1000000) return v / 1000000 " M"
    if (v >= 10000) return v / 1000 " k"
    return v ""
}

function axes(    v, step) {
    step = ylog ? 1 : step_for(most)
    for (v = base; v <= most + step / 1000; v += step) {
        mark = ylog ? 10 ^ v : v
        line(left, at_y(mark), width - right, at_y(mark), "#ddd")
        text(left - 8, at_y(mark) + 4, "end", plain(mark))
    }
    step = xlog ? 1 : step_for(high - low)
    for (v = (xlog ? floor(low + 0.9999) : 0); v <= high * 1.0001; v += step) {
        px = at_x(xlog ? 10 ^ v : v)
        line(px, height - bottom, px, height - bottom + 5, "#333")
        text(px, height - bottom + 20, "middle", plain(xlog ? 10 ^ v : v))
    }
    line(left, height - bottom, width - right, height - bottom, "#333")
    line(left, top, left, height - bottom, "#333")
    text((left + width - right) / 2, height - 15, "middle", xtitle)
    text(0, 0, "middle", ytitle, sprintf(" transform=\"translate(18 %.1f) rotate(-90)\"", (top + height - bottom) / 2))
    text(left, 20, "start", title, " font-size=\"16\"")
}

END {
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" ", width, height
    print "font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">"
    print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    if (!n) {
        text(width / 2, height / 2, "middle", title ": no points")
        print "</svg>"
        exit
    }
    if (joined) { sort_by_x(); keep_medians() }
    low = xlog ? scaled_x(x[1]) : 0; high = scaled_x(x[1])
    for (i = 1; i <= n; i++) {
        if (scaled_x(x[i]) < low) low = scaled_x(x[i])
        if (scaled_x(x[i]) > high) high = scaled_x(x[i])
        if (i == 1 || scaled_y(y[i]) < base) base = scaled_y(y[i])
        if (i == 1 || scaled_y(y[i]) > most) most = scaled_y(y[i])
    }
    if (high <= low) high = low + 1
    base = ylog ? floor(base) : 0
    most = ylog ? floor(most) + 1 : most > 0 ? most * 1.05 : 1
    axes()
    for (i = 1; i <= n; i++) {
        colour = colours[(series[i] - 1) % 4 + 1]
        if (joined && i > 1 && series[i] == series[i - 1])
            line(at_x(x[i - 1]), at_y(y[i - 1]), at_x(x[i]), at_y(y[i]), colour)
        printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\" fill-opacity=\"0.7\"/>\n", at_x(x[i]), at_y(y[i]), colour
    }
    for (s = 1; s <= series_count; s++) {
        printf "<circle cx=\"%.1f\" cy=\"36\" r=\"4\" fill=\"%s\"/>\n", left + (s - 1) * 100 + 5, colours[(s - 1) % 4 + 1]
        text(left + (s - 1) * 100 + 15, 40, "start", names[s])
    }
    print "</svg>"
}
