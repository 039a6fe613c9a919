/* GETs and SETs in the form in which nearly all clients send them, as `wire.plain`. Part of
 * `_quiet.c`. */

typedef struct {
    const char *at;
    Py_ssize_t size;
} Span;

/* "$<digits>\r\n" at `*p`: the number, and `*p` behind it; -1: it is not there, or in another form
 * than the usual one. */
static Py_ssize_t
take_length(const char **p, const char *end)
{
    const char *at = *p;
    if (end - at < 4 || *at++ != '$')
        return -1;
    if (*at == '0' && at[1] != '\r')
        return -1;
    Py_ssize_t length = 0;
    const char *first = at; /* nine digits: no chunk is longer, and every Py_ssize_t holds that */
    while (at < end && *at >= '0' && *at <= '9' && at - first < 9)
        length = 10 * length + (*at++ - '0');
    if (at == first || end - at < 2 || at[0] != '\r' || at[1] != '\n')
        return -1;
    *p = at + 2;
    return length;
}

/* So many bytes and "\r\n" at `*p`, and `*p` behind them. */
static int
take_bytes(const char **p, const char *end, Py_ssize_t size, Span *span)
{
    const char *at = *p;
    if (end - at < size + 2 || at[size] != '\r' || at[size + 1] != '\n')
        return 0;
    *span = (Span){at, size};
    *p = at + size + 2;
    return 1;
}

/* Begins there a GET with one key? -> `*p` behind it */
static int
take_get(const char **p, const char *end, Span *key)
{
    static const char head[] = "*2\r\n$3\r\n";
    const char *at = *p;
    if (end - at < 20 || memcmp(at, head, 8) != 0)
        return 0;
    if (memcmp(at + 8, "GET\r\n", 5) != 0 && memcmp(at + 8, "get\r\n", 5) != 0)
        return 0;
    at += 13;
    Py_ssize_t length = take_length(&at, end);
    if (length < 1 || !take_bytes(&at, end, length, key))
        return 0;
    *p = at;
    return 1;
}

/* Is all of it a SET without options? `bulk`: the value as a bulk string. */
static int
take_set(const char *at, const char *end, Span *key, Span *bulk)
{
    static const char head[] = "*3\r\n$3\r\n";
    if (end - at < 26 || memcmp(at, head, 8) != 0)
        return 0;
    if (memcmp(at + 8, "SET\r\n", 5) != 0 && memcmp(at + 8, "set\r\n", 5) != 0)
        return 0;
    at += 13;
    Py_ssize_t length = take_length(&at, end);
    if (length < 1 || !take_bytes(&at, end, length, key))
        return 0;
    const char *value = at;
    Span told;
    length = take_length(&at, end);
    if (length < 0 || !take_bytes(&at, end, length, &told) || at != end)
        return 0;
    *bulk = (Span){value, end - value};
    return 1;
}
