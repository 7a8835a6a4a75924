/*
 * parse.c - from bytes to packages.
 *
 * A package index is made of stanzas, with blank lines between them.  A stanza has lines "Field: value";
 * a line that begins with a space goes on with the value of the line before.  A worker turns the stanzas of
 * its chunk into packages, whose references to others are still text; graph.c links them.
 *
 * What is malformed is reported with file and line and left out; the rest counts.
 */
#include "parse.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ouro.h>

#include "graph.h"

#define PROBLEMS_SHOWN  10
#define NAME_MAX_LENGTH 255 /* of names and versions; each has to fit into the name of a file */

enum field {
    FIELD_PACKAGE,
    FIELD_STATUS,
    FIELD_VERSION,
    FIELD_ARCHITECTURE,
    FIELD_PROVIDES,
    FIELD_PRE_DEPENDS,
    FIELD_DEPENDS,
    FIELD_COUNT,
    FIELD_OTHER = FIELD_COUNT, /* one that is of no interest here */
    FIELD_NONE,                /* there was none in this stanza so far */
};

static const char *const field_names[FIELD_COUNT] = {
    [FIELD_PACKAGE] = "Package",         [FIELD_STATUS] = "Status",
    [FIELD_VERSION] = "Version",         [FIELD_ARCHITECTURE] = "Architecture",
    [FIELD_PROVIDES] = "Provides",       [FIELD_DEPENDS] = "Depends",
    [FIELD_PRE_DEPENDS] = "Pre-Depends",
};

/* What a stanza says; a slice without text: nothing. */
struct stanza {
    const char *begin;
    enum field last; /* whose value a continuation line belongs to */
    struct slice values[FIELD_COUNT];
};

/* --- reporting ----------------------------------------------------------------------------------- */

/* Reports what is wrong at that place of a file; NULL: with the file. Printing may block: detached. */
__attribute__((format(printf, 4, 5))) static void report(struct problems *problems,
                                                         const struct file *file, const char *at,
                                                         const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    OURO_DETACHED
    {
        pthread_mutex_lock(&problems->lock);
        problems->count++;
        if (!problems->quiet && problems->shown < PROBLEMS_SHOWN) {
            problems->shown++;
            fprintf(stderr, "debgraph: %s:", file->path);
            if (at) {
                size_t line = 1;

                for (const char *p = file->text; (p = memchr(p, '\n', (size_t)(at - p))); p++)
                    line++;
                fprintf(stderr, "%zu:", line);
            }
            fputc(' ', stderr);
            vfprintf(stderr, format, arguments);
            fputc('\n', stderr);
        }
        pthread_mutex_unlock(&problems->lock);
    }
    va_end(arguments);
}

/* The beginning of a text, fit to be printed whatever is in it. */
struct excerpt {
    char text[48];
};

static struct excerpt excerpt(struct slice slice)
{
    struct excerpt result;
    size_t room = sizeof result.text - sizeof "...";
    size_t length = slice.length < room ? slice.length : room;

    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)slice.text[i];
        result.text[i] = c >= ' ' && c < 0x7F ? (char)c : '?';
    }
    strcpy(result.text + length, slice.length > length ? "..." : "");
    return result;
}

/* --- files --------------------------------------------------------------------------------------- */

/* Reads until the end. Returns 0 or an errno. Touches no object, so that it can run detached. */
static int read_all(struct file *file)
{
    struct stat status;
    size_t room;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    int error = 0;

    if (fd < 0)
        return errno;
    room = fstat(fd, &status) == 0 && status.st_size > 0 ? (size_t)status.st_size + 1 : 1 << 16;
    while (!error) {
        ssize_t got;

        if (!file->text || file->size == room) {
            room = file->text ? room * 2 : room;
            char *text = realloc(file->text, room);
            if (!text) {
                error = ENOMEM;
                break;
            }
            file->text = text;
        }
        got = read(fd, file->text + file->size, room - file->size);
        if (got == 0)
            break;
        if (got > 0)
            file->size += (size_t)got;
        else if (errno != EINTR)
            error = errno;
    }
    close(fd);
    return error;
}

bool file_read(struct file *file, const char *path, struct problems *problems, bool *no_memory)
{
    int error = 0;

    *file = (struct file){.path = path};
    OURO_DETACHED
    {
        error = read_all(file);
    }
    if (!error)
        return true;
    free(file->text);
    file->text = NULL;
    if (error == ENOMEM)
        *no_memory = true;
    else
        report(problems, file, NULL, "%s", strerror(error));
    return false;
}

/* --- terms and versions -------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static struct slice trim(const char *begin, const char *end)
{
    while (begin < end && is_space(*begin))
        begin++;
    while (end > begin && is_space(end[-1]))
        end--;
    return (struct slice){begin, (size_t)(end - begin)};
}

static bool is_name_character(char c)
{
    return isalnum((unsigned char)c) || c == '+' || c == '-' || c == '.' || c == '_';
}

static bool is_name(struct slice slice)
{
    if (slice.length == 0 || slice.length > NAME_MAX_LENGTH ||
        !isalnum((unsigned char)slice.text[0]))
        return false;
    for (size_t i = 1; i < slice.length; i++)
        if (!is_name_character(slice.text[i]))
            return false;
    return true;
}

static bool is_version(struct slice slice)
{
    if (slice.length == 0 || slice.length > NAME_MAX_LENGTH)
        return false;
    for (size_t i = 0; i < slice.length; i++)
        if (!is_name_character(slice.text[i]) && slice.text[i] != '~' && slice.text[i] != ':')
            return false;
    return true;
}

/* Takes "(>= 1.0)", from behind the parenthesis on. Returns where it ends; NULL: it is malformed. */
static const char *parse_version(const char *at, const char *end, struct term *term)
{
    static const struct {
        char text[3];
        enum relation relation;
    } relations[] = {
        {"<<", EARLIER}, {"<=", EARLIER_OR_SAME}, {">=", LATER_OR_SAME}, {">>", LATER},
        {"=", SAME},     {"<", EARLIER_OR_SAME},  {">", LATER_OR_SAME}, /* as dpkg reads these */
    };
    const char *close = memchr(at, ')', (size_t)(end - at));
    struct slice inside;

    if (!close)
        return NULL;
    inside = trim(at, close);
    for (size_t i = 0; i < sizeof relations / sizeof relations[0]; i++) {
        size_t length = strlen(relations[i].text);

        if (inside.length > length && memcmp(inside.text, relations[i].text, length) == 0) {
            term->relation = relations[i].relation;
            term->version = trim(inside.text + length, inside.text + inside.length);
            return is_version(term->version) ? close + 1 : NULL;
        }
    }
    return NULL;
}

bool term_parse(const char **at, const char *end, struct term *term)
{
    const char *p = *at;

    while (p < end && is_space(*p))
        p++;
    *term = (struct term){.name = {p, 0}, .relation = ANY};
    while (p < end && is_name_character(*p))
        p++;
    term->name.length = (size_t)(p - term->name.text);
    if (!is_name(term->name))
        return false;
    if (p < end && *p == ':') /* ":any", ":amd64": which architecture, which is not looked at */
        do
            p++;
        while (p < end && is_name_character(*p));
    while (p < end && is_space(*p))
        p++;
    if (p < end && *p == '(' && !(p = parse_version(p + 1, end, term)))
        return false;
    while (p < end && is_space(*p))
        p++;
    *at = p;
    return p == end || *p == '|';
}

/* The place of a character in a version: '~' before the end, before letters, before all others. */
static int weight(struct slice *slice)
{
    unsigned char c = slice->length ? (unsigned char)*slice->text : 0;

    if (c == 0 || isdigit(c))
        return 0;
    return c == '~' ? -1 : isalpha(c) ? c : c + 256;
}

static void skip(struct slice *slice)
{
    slice->text++;
    slice->length--;
}

static bool at_digit(const struct slice *slice)
{
    return slice->length && isdigit((unsigned char)*slice->text);
}

/* Compares two pieces of versions as dpkg does: what is no digit by weight, digits by value, in turn. */
static int compare_piece(struct slice a, struct slice b)
{
    while (a.length || b.length) {
        int first_difference = 0;

        while ((a.length && !at_digit(&a)) || (b.length && !at_digit(&b))) {
            int difference = weight(&a) - weight(&b);
            if (difference)
                return difference;
            skip(&a);
            skip(&b);
        }
        while (a.length && *a.text == '0')
            skip(&a);
        while (b.length && *b.text == '0')
            skip(&b);
        while (at_digit(&a) && at_digit(&b)) {
            if (!first_difference)
                first_difference = *a.text - *b.text;
            skip(&a);
            skip(&b);
        }
        if (at_digit(&a) != at_digit(&b))
            return at_digit(&a) ? 1 : -1;
        if (first_difference)
            return first_difference;
    }
    return 0;
}

/* A version is "epoch:upstream-revision", the first and the last of which may be missing. */
static void split_version(struct slice version, struct slice piece[3])
{
    const char *colon = memchr(version.text, ':', version.length);
    const char *begin = colon ? colon + 1 : version.text;
    const char *end = version.text + version.length;
    const char *dash = memrchr(begin, '-', (size_t)(end - begin));

    piece[0] = (struct slice){version.text, colon ? (size_t)(colon - version.text) : 0};
    piece[1] = (struct slice){begin, (size_t)((dash ? dash : end) - begin)};
    piece[2] = (struct slice){dash ? dash + 1 : end, dash ? (size_t)(end - dash - 1) : 0};
}

static int compare_versions(struct slice a, struct slice b)
{
    struct slice of_a[3], of_b[3];

    split_version(a, of_a);
    split_version(b, of_b);
    for (int i = 0; i < 3; i++) {
        int difference = compare_piece(of_a[i], of_b[i]);
        if (difference)
            return difference;
    }
    return 0;
}

bool term_matches(const struct term *term, struct slice version)
{
    int difference;

    if (term->relation == ANY)
        return true;
    if (!version.text)
        return false;
    difference = compare_versions(version, term->version);
    switch (term->relation) {
    case EARLIER:
        return difference < 0;
    case EARLIER_OR_SAME:
        return difference <= 0;
    case SAME:
        return difference == 0;
    case LATER_OR_SAME:
        return difference >= 0;
    case LATER:
        return difference > 0;
    case ANY:
        break;
    }
    return true;
}

/* --- stanzas ------------------------------------------------------------------------------------- */

/* Takes one line, which is not blank. */
static void read_line(const struct chunk *chunk, struct problems *problems, struct stanza *stanza,
                      const char *line, const char *end)
{
    const char *colon = NULL;
    enum field field = FIELD_OTHER;
    size_t length;

    if (*line == ' ' || *line == '\t') {
        if (stanza->last == FIELD_NONE)
            report(problems, chunk->file, line, "a continuation line without a field before it");
        else if (stanza->last < FIELD_COUNT)
            stanza->values[stanza->last].length = (size_t)(end - stanza->values[stanza->last].text);
        return;
    }
    colon = memchr(line, ':', (size_t)(end - line));
    length = colon ? (size_t)(colon - line) : 0;
    if (!is_name((struct slice){line, length})) {
        report(problems, chunk->file, line, "expected \"Field: value\", found \"%s\"",
               excerpt((struct slice){line, (size_t)(end - line)}).text);
        return;
    }
    for (int i = 0; i < FIELD_COUNT; i++)
        if (strlen(field_names[i]) == length && strncasecmp(field_names[i], line, length) == 0)
            field = (enum field)i;
    if (field < FIELD_COUNT && stanza->values[field].text) {
        report(problems, chunk->file, line, "a second field %s", field_names[field]);
        field = FIELD_OTHER;
    }
    stanza->last = field;
    if (field < FIELD_COUNT)
        stanza->values[field] = (struct slice){colon + 1, (size_t)(end - colon - 1)};
}

/* Collects the fields up to the next blank line. Returns where it stopped. */
static const char *read_stanza(const struct chunk *chunk, struct problems *problems,
                               struct stanza *stanza)
{
    const char *at = stanza->begin;

    while (at < chunk->end) {
        const char *end = memchr(at, '\n', (size_t)(chunk->end - at));

        if (!end) { /* like dpkg, don't believe a line that may have been cut off */
            report(problems, chunk->file, at, "the file ends in the middle of a line");
            return chunk->end;
        }
        if (trim(at, end).length == 0)
            return end + 1;
        read_line(chunk, problems, stanza, at, end);
        at = end + 1;
    }
    return at;
}

/* Is a text, the part of a list between two commas, well formed? */
static bool is_item(struct slice item, bool alternatives)
{
    const char *at = item.text;
    const char *end = at + item.length;
    struct term term;

    for (;;) {
        if (!term_parse(&at, end, &term))
            return false;
        if (at == end)
            return alternatives || term.relation == ANY || term.relation == SAME;
        if (!alternatives)
            return false;
        at++;
    }
}

/* Copies the well-formed items of a list to *out, each with single spaces and a final 0. Returns how
 * many. It never writes more than the list's length and one byte. */
static uint32_t copy_items(const struct chunk *chunk, struct problems *problems, struct slice list,
                           bool alternatives, char **out)
{
    const char *at = list.text;
    const char *end = at + list.length;
    char *to = *out;
    uint32_t count = 0;

    if (trim(at, end).length == 0)
        return 0;
    while (at <= end) {
        const char *comma = at < end ? memchr(at, ',', (size_t)(end - at)) : NULL;
        const char *stop = comma ? comma : end;
        struct slice item = trim(at, stop);

        if (is_item(item, alternatives)) {
            for (size_t i = 0; i < item.length; i++)
                if (!is_space(item.text[i]))
                    *to++ = item.text[i];
                else if (to[-1] != ' ')
                    *to++ = ' ';
            *to++ = 0;
            count++;
        } else if (item.length || comma) { /* a comma at the very end is harmless */
            report(problems, chunk->file, item.text, "expected %s, found \"%s\"",
                   alternatives ? "a dependency" : "a provided name", excerpt(item).text);
        }
        at = stop + 1;
    }
    *out = to;
    return count;
}

static const char *copy_slice(struct slice slice, char **out)
{
    const char *copy = *out;

    memcpy(*out, slice.text, slice.length);
    (*out)[slice.length] = 0;
    *out += slice.length + 1;
    return copy;
}

static bool append_package(struct chunk *chunk, struct package *package)
{
    if (chunk->count == chunk->room) {
        size_t room = chunk->room ? chunk->room * 2 : 256;
        struct package **packages = realloc(chunk->packages, room * sizeof(struct package *));

        if (!packages)
            return false;
        chunk->packages = packages;
        chunk->room = room;
    }
    chunk->packages[chunk->count++] = package;
    return true;
}

/* Makes a package and appends it to the chunk. False: memory is out. */
static bool make_package(struct chunk *chunk, struct problems *problems, const struct slice *values)
{
    size_t bytes = FIELD_COUNT;
    uint32_t provide_count, need_count;
    const char *version, *architecture, *provides, *depends;
    struct package *package;
    char *text, *out;

    for (int i = 0; i < FIELD_COUNT; i++)
        bytes += values[i].length;
    text = out = ouro_alloc(bytes);
    if (!text)
        return false;
    copy_slice(values[FIELD_PACKAGE], &out);
    version = copy_slice(values[FIELD_VERSION], &out);
    architecture = copy_slice(values[FIELD_ARCHITECTURE], &out);
    provides = out;
    provide_count = copy_items(chunk, problems, values[FIELD_PROVIDES], false, &out);
    depends = out;
    need_count = copy_items(chunk, problems, values[FIELD_PRE_DEPENDS], true, &out);
    need_count += copy_items(chunk, problems, values[FIELD_DEPENDS], true, &out);

    package = package_new(text, need_count);
    if (!package) {
        ouro_free(text);
        return false;
    }
    package->version = version;
    package->architecture = architecture;
    package->provides = provides;
    package->provide_count = provide_count;
    package->depends = depends;
    chunk->provides += provide_count;
    if (append_package(chunk, package)) /* the new reference is the chunk's from here on */
        return true;
    ouro_decref(package);
    return false;
}

/* Looks at the fields of a stanza, and makes a package if they describe one. False: memory is out. */
static bool accept_stanza(struct chunk *chunk, struct problems *problems, struct stanza *stanza)
{
    struct slice *values = stanza->values;
    struct slice *status = &values[FIELD_STATUS];

    for (int i = 0; i < FIELD_COUNT; i++)
        if (values[i].text)
            values[i] = trim(values[i].text, values[i].text + values[i].length);
        else
            values[i] = (struct slice){"", 0};

    if (!is_name(values[FIELD_PACKAGE])) {
        if (values[FIELD_PACKAGE].length)
            report(problems, chunk->file, values[FIELD_PACKAGE].text,
                   "\"%s\" is no name for a package", excerpt(values[FIELD_PACKAGE]).text);
        else
            report(problems, chunk->file, stanza->begin, "a stanza without a field Package");
        return true;
    }
    if (status->length) { /* "install ok installed": what is wanted, errors, what is the case */
        const char *space = memrchr(status->text, ' ', status->length);
        const char *state = space ? space + 1 : status->text;

        if (!(status->text + status->length - state == 9 && memcmp(state, "installed", 9) == 0)) {
            chunk->not_installed++;
            return true;
        }
    }
    if (!is_version(values[FIELD_VERSION])) {
        report(problems, chunk->file,
               values[FIELD_VERSION].length ? values[FIELD_VERSION].text : stanza->begin,
               "package %s has no Version that is one", excerpt(values[FIELD_PACKAGE]).text);
        return true;
    }
    if (values[FIELD_ARCHITECTURE].length && !is_name(values[FIELD_ARCHITECTURE])) {
        report(problems, chunk->file, values[FIELD_ARCHITECTURE].text, "\"%s\" is no architecture",
               excerpt(values[FIELD_ARCHITECTURE]).text);
        values[FIELD_ARCHITECTURE] = (struct slice){"", 0};
    }
    return make_package(chunk, problems, values);
}

bool chunk_parse(struct chunk *chunk, struct problems *problems)
{
    const char *at = chunk->begin;

    while (at < chunk->end) {
        struct stanza stanza = {.begin = at, .last = FIELD_NONE};

        at = read_stanza(chunk, problems, &stanza);
        if (stanza.last != FIELD_NONE && !accept_stanza(chunk, problems, &stanza))
            return false;
        ouro_safepoint();
    }
    return true;
}
