# Turns the lines of the programs gc_* (round, workload, peer, figure, value, unit) into a table for each workload:
# a line a figure, a column a peer, the median of the rounds, and the ratio of the first peer to each other. With
# -v best=1 times are the least of the rounds and rates the greatest: what a machine shared with others disturbs least.

BEGIN { FS = "\t" }

{
    if (!($2 in have_workload)) { have_workload[$2] = 1; workloads[++workload_count] = $2 }
    if (!(($2, $3) in have_peer)) { have_peer[$2, $3] = 1; peers[$2, ++peer_count[$2]] = $3 }
    if (!(($2, $4) in have_figure)) {
        have_figure[$2, $4] = 1
        figures[$2, ++figure_count[$2]] = $4
        units[$2, $4] = $6
    }
    values[$2, $3, $4, ++count[$2, $3, $4]] = $5
}

function middle_or_best(workload, peer, figure,    n, i, j, v, sorted) {
    n = count[workload, peer, figure]
    for (i = 1; i <= n; i++) {
        v = values[workload, peer, figure, i] + 0
        for (j = i - 1; j >= 1 && sorted[j] > v; j--)
            sorted[j + 1] = sorted[j]
        sorted[j + 1] = v
    }
    if (best && units[workload, figure] == "M/s")
        return sorted[n]
    if (best && units[workload, figure] ~ /^(s|ms|ns)$/)
        return sorted[1]
    return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

function pretty(v) {
    if (v == int(v) && v < 1e9) return sprintf("%d", v)
    return sprintf(v >= 100 ? "%.0f" : v >= 10 ? "%.1f" : v >= 0.1 ? "%.2f" : "%.3f", v)
}

function trim(text) {
    sub(/^ +/, "", text)
    return text
}

# Numbers of things, and shares, are no matter of better and worse.
function has_ratio(unit) {
    return unit != "" && unit != "%"
}

END {
    for (w = 1; w <= workload_count; w++) {
        name = workloads[w]
        first = peers[name, 1]
        line = "| " name " |"; rule = "|---|"
        for (p = 1; p <= peer_count[name]; p++) { line = line " " peers[name, p] " |"; rule = rule "---|" }
        for (p = 2; p <= peer_count[name]; p++) {
            line = line " " first " / " peers[name, p] " |"; rule = rule "---|"
        }
        print line; print rule
        for (f = 1; f <= figure_count[name]; f++) {
            figure = figures[name, f]
            unit = units[name, figure]
            line = "| " trim(figure) (unit != "" ? ", " unit : "") " |"
            for (p = 1; p <= peer_count[name]; p++) {
                there[p] = (name, peers[name, p], figure, 1) in values
                middle[p] = there[p] ? middle_or_best(name, peers[name, p], figure) : 0
                line = line " " (there[p] ? pretty(middle[p]) : "-") " |"
            }
            for (p = 2; p <= peer_count[name]; p++)
                line = line " " (there[1] && there[p] && middle[p] > 0 && has_ratio(unit) ? \
                                 sprintf("%.2f", middle[1] / middle[p]) : "-") " |"
            print line
        }
        print ""
    }
}
