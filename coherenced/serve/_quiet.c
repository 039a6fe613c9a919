/* A quiet connection, compiled: what `quiet_pure.py` does, as one call. Optional; `quiet.py` chooses.
 *
 *     Tally     what a front counts of all its connections
 *     Hit       the short path to an entry of L1              (`_quiet_hit.h`)
 *     Poller    reads the sockets of many connections         (`_quiet_socket.h`)
 *     Quiet     one connection, as long as nothing of it is under way
 *
 * What may run anything (a call of Python) is made with everything of this connection settled, and
 * nothing that was read before such a call is trusted after it. All of this runs under the
 * interpreter's lock: where there is none the module is not built.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "_quiet_hit.h"
#include "_quiet_plain.h"
#include "_quiet_socket.h"

#ifdef CLOCK_BOOTTIME /* as `quiet_pure.boottime_ms` */
#define CLOCK CLOCK_BOOTTIME
#else
#define CLOCK CLOCK_MONOTONIC
#endif

enum { BUSY, QUIET, GETTING, SETTING };

#define TURN_BYTES 8192 /* as in quiet_pure */
#define SLICE_BYTES 2048
#define SLICE_MOST (SLICE_BYTES / 20 + 1) /* requests that begin in a slice: the shortest has 20 bytes */
#define PIECE_BYTES (256 * 1024)

typedef struct {
    PyTypeObject *tally_type, *hit_type, *poller_type;
    PyObject *set_type;                 /* core.model.Set */
    PyObject *done, *ok, *nil2, *nil3;  /* the outcome of a SET; replies */
    PyObject *boottime_ms;
    PyObject *bulk, *received, *open_alone, *fill_alone, *sample; /* names */
    PyObject *write, *unwritten, *pause, *resume, *close, *abort, *eof_received, *failed;
} State;

static struct PyModuleDef module_def;

/* -- Tally ------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_ssize_t requests, sample_at;
} Tally;

static int
tally_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    return PyArg_ParseTuple(args, "n:Tally", &((Tally *)object)->sample_at) ? 0 : -1;
}

static void
tally_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef tally_members[] = {
    {"requests", T_PYSSIZET, offsetof(Tally, requests), 0, NULL},
    {"sample_at", T_PYSSIZET, offsetof(Tally, sample_at), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot tally_slots[] = {
    {Py_tp_doc, "What a front counts: see quiet_pure.Tally."},
    {Py_tp_init, tally_init},
    {Py_tp_dealloc, tally_dealloc},
    {Py_tp_members, tally_members},
    {0, NULL},
};

static PyType_Spec tally_spec = {
    .name = "coherenced.serve._quiet.Tally",
    .basicsize = sizeof(Tally),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = tally_slots,
};

/* -- Quiet ------------------------------------------------------------------------------------- */

typedef struct {
    Socket socket; /* how it is read and written past the transport */
    PyObject *front, *transport;
    Tally *tally;
    PyObject *hit, *now_ms, *get, *submit; /* of the front's port */
    Py_ssize_t longest_key, longest_bulk;
    Py_ssize_t alone_bytes, reply_bytes;
    int state;
    char resp3, paused;
} Quiet;

static State *
state_of(PyObject *object)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(object), &module_def);
    return module == NULL ? NULL : PyModule_GetState(module);
}

/* The same for a method that takes bytes; `wrong` is said of anything else. */
static State *
state_for(PyObject *object, PyObject *data, const char *wrong)
{
    if (PyBytes_CheckExact(data))
        return state_of(object);
    PyErr_SetString(PyExc_TypeError, wrong);
    return NULL;
}

/* object.a.b.c, a number */
static int
number_at(PyObject *object, const char *a, const char *b, const char *c, Py_ssize_t *number)
{
    PyObject *first = PyObject_GetAttrString(object, a);
    PyObject *second = first == NULL ? NULL : PyObject_GetAttrString(first, b);
    PyObject *third = second == NULL ? NULL : PyObject_GetAttrString(second, c);
    *number = third == NULL ? -1 : PyLong_AsSsize_t(third);
    Py_XDECREF(first);
    Py_XDECREF(second);
    Py_XDECREF(third);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

static int
take_bounds(Quiet *self)
{
    Py_ssize_t key, bulk;
    if (number_at(self->front, "settings", "bounds", "max_key_bytes", &key) < 0
        || number_at(self->front, "settings", "frame", "max_bulk_bytes", &bulk) < 0)
        return -1;
    self->longest_key = Py_MIN(key, bulk); /* a key is an argument, too */
    self->longest_bulk = bulk;
    return 0;
}

/* object.name, to be kept there */
static int
keep(PyObject *object, const char *name, PyObject **kept)
{
    PyObject *found = PyObject_GetAttrString(object, name);
    if (found == NULL)
        return -1;
    Py_XSETREF(*kept, found);
    return 0;
}

static int
quiet_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Quiet *self = (Quiet *)object;
    State *module = state_of(object);
    PyObject *front;
    if (module == NULL || !PyArg_ParseTuple(args, "O:Quiet", &front))
        return -1;
    if (self->front != NULL) {
        PyErr_SetString(PyExc_ValueError, "its front is given once");
        return -1;
    }
    PyObject *port = PyObject_GetAttrString(front, "port");
    if (port == NULL)
        return -1;
    int kept = keep(port, "hit", &self->hit) == 0 && keep(port, "now_ms", &self->now_ms) == 0
               && keep(port, "get", &self->get) == 0 && keep(port, "submit", &self->submit) == 0;
    Py_DECREF(port);
    PyObject *tally = kept ? PyObject_GetAttrString(front, "tally") : NULL;
    if (tally == NULL)
        return -1;
    if (!Py_IS_TYPE(tally, module->tally_type)) {
        PyErr_SetString(PyExc_TypeError, "a front's tally is a Tally");
        Py_DECREF(tally);
        return -1;
    }
    self->tally = (Tally *)tally;
    self->socket.fd = -1;
    self->front = Py_NewRef(front);
    return take_bounds(self);
}

static PyObject *
quiet_bound(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Quiet *self = (Quiet *)object;
    if (self->front == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "it has no front yet");
        return NULL;
    }
    if (take_bounds(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* transport.name(argument), or without one: what it returns. It may call anything, and the transport
 * may be gone afterwards. */
static PyObject *
ask_transport(const Quiet *self, PyObject *name, PyObject *argument)
{
    PyObject *transport = self->transport;
    if (transport == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "not connected yet");
        return NULL;
    }
    Py_INCREF(transport);
    PyObject *args[] = {transport, argument};
    size_t number = argument == NULL ? 1 : 2;
    PyObject *told = PyObject_VectorcallMethod(name, args, number | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                               NULL);
    Py_DECREF(transport);
    return told;
}

static int
tell_transport(const Quiet *self, PyObject *name, PyObject *argument)
{
    PyObject *told = ask_transport(self, name, argument);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

/* Have the transport write it: what the socket does not take now waits there, and from now on all
 * that comes behind, until the transport has written everything. */
static int
write_by_transport(Quiet *self, State *module, PyObject *data)
{
    if (tell_transport(self, module->write, data) < 0)
        return -1;
    if (self->socket.fd < 0)
        return 0;
    PyObject *told = ask_transport(self, module->unwritten, NULL);
    Py_ssize_t unwritten = told == NULL ? -1 : PyLong_AsSsize_t(told);
    Py_XDECREF(told);
    self->socket.behind_transport = unwritten != 0;
    return unwritten == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Hand a reply to the socket. It may call anything, `pause_writing` among it. */
static int
hand_over(Quiet *self, State *module, PyObject *reply)
{
    Py_ssize_t sent = socket_send(&self->socket, PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply));
    if (sent == 0)
        return write_by_transport(self, module, reply);
    if (sent == PyBytes_GET_SIZE(reply))
        return 0;
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(reply) + sent,
                                               PyBytes_GET_SIZE(reply) - sent);
    if (rest == NULL)
        return -1;
    int done = write_by_transport(self, module, rest);
    Py_DECREF(rest);
    return done;
}

static PyObject *
in_protocol(const Quiet *self, const State *module, PyObject *bulk)
{
    if (!self->resp3 || PyBytes_GET_SIZE(bulk) != PyBytes_GET_SIZE(module->nil2)
        || memcmp(PyBytes_AS_STRING(bulk), PyBytes_AS_STRING(module->nil2),
                  (size_t)PyBytes_GET_SIZE(bulk)) != 0)
        return bulk;
    return module->nil3;
}

static int
read_boottime(double *now_ms)
{
    struct timespec now;
    if (clock_gettime(CLOCK, &now) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    *now_ms = ((double)now.tv_sec + (double)now.tv_nsec * 1e-9) * 1e3;
    return 0;
}

static int
read_clock(const Quiet *self, const State *module, double *now_ms)
{
    if (self->front == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "it has no front yet");
        return -1;
    }
    if (self->now_ms == module->boottime_ms)
        return read_boottime(now_ms);
    PyObject *told = PyObject_CallNoArgs(self->now_ms);
    if (told == NULL)
        return -1;
    *now_ms = PyFloat_AsDouble(told);
    Py_DECREF(told);
    return *now_ms == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The reply to a GET that hits, a new reference. NULL without an error set: it does not hit. */
static PyObject *
reply_of_hit(Quiet *self, State *module, PyObject *key, double now_ms)
{
    PyObject *entry, *bulk;
    if (Py_IS_TYPE(self->hit, module->hit_type)) {
        const Hit *hit = (Hit *)self->hit;
        entry = find(hit, key, now_ms);
        if (entry == NULL)
            return NULL;
        bulk = Py_IS_TYPE(entry, hit->entry_type) ? Py_XNewRef(AT(entry, hit->bulk)) : NULL;
    } else {
        PyObject *now = PyFloat_FromDouble(now_ms);
        if (now == NULL)
            return NULL;
        entry = PyObject_CallFunctionObjArgs(self->hit, key, now, NULL);
        Py_DECREF(now);
        if (entry == NULL)
            return NULL;
        bulk = entry == Py_None ? NULL : PyObject_GetAttr(entry, module->bulk);
    }
    Py_DECREF(entry);
    if (bulk == NULL || PyBytes_CheckExact(bulk))
        return bulk;
    PyErr_SetString(PyExc_TypeError, "the bulk of an entry is bytes");
    Py_DECREF(bulk);
    return NULL;
}

/* The latency of a hit is measured now and then. */
static int
sample(Quiet *self, State *module, double now_ms)
{
    if (self->tally->requests < self->tally->sample_at)
        return 0;
    PyObject *now = PyFloat_FromDouble(now_ms);
    if (now == NULL)
        return -1;
    PyObject *done = PyObject_CallMethodOneArg(self->front, module->sample, now);
    Py_DECREF(now);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Write these replies together. They are given up. */
static int
hand_over_all(Quiet *self, State *module, PyObject **replies, Py_ssize_t number)
{
    int done = -1;
    PyObject *whole = NULL;
    if (number == 1)
        whole = Py_NewRef(replies[0]);
    else {
        Py_ssize_t size = 0;
        for (Py_ssize_t i = 0; i < number; i++) {
            Py_ssize_t more = PyBytes_GET_SIZE(replies[i]);
            if (more > PY_SSIZE_T_MAX - size) {
                PyErr_NoMemory();
                goto end;
            }
            size += more;
        }
        whole = PyBytes_FromStringAndSize(NULL, size);
        if (whole == NULL)
            goto end;
        char *to = PyBytes_AS_STRING(whole);
        for (Py_ssize_t i = 0; i < number; i++) {
            memcpy(to, PyBytes_AS_STRING(replies[i]), (size_t)PyBytes_GET_SIZE(replies[i]));
            to += PyBytes_GET_SIZE(replies[i]);
        }
    }
    done = hand_over(self, module, whole);
end:
    Py_XDECREF(whole);
    for (Py_ssize_t i = 0; i < number; i++)
        Py_DECREF(replies[i]);
    return done;
}

/* Answer the GETs that a chunk begins with, as long as they hit. -> how many bytes that were, or
 * -1: an error is set. */
static Py_ssize_t
leading_hits(Quiet *self, State *module, const char *data, Py_ssize_t size)
{
    const char *at = data, *end = data + size;
    Span key;
    if (size > TURN_BYTES || !take_get(&at, end, &key))
        return 0;
    at = data;
    double now_ms;
    if (read_clock(self, module, &now_ms) < 0)
        return -1;
    int go_on = 1;
    while (go_on && at < end && !self->paused) {
        PyObject *replies[SLICE_MOST];
        Py_ssize_t number = 0, bytes = 0;
        const char *first = at;
        while (at < end && at - first < SLICE_BYTES && number < SLICE_MOST
               && bytes < PIECE_BYTES) {
            const char *behind = at;
            PyObject *name = NULL, *bulk = NULL;
            if (take_get(&behind, end, &key)) {
                name = PyBytes_FromStringAndSize(key.at, key.size);
                bulk = name == NULL ? NULL : reply_of_hit(self, module, name, now_ms);
                Py_XDECREF(name);
            }
            if (bulk == NULL) {
                if (PyErr_Occurred()) {
                    while (number > 0)
                        Py_DECREF(replies[--number]);
                    return -1;
                }
                go_on = 0;
                break;
            }
            replies[number] = Py_NewRef(in_protocol(self, module, bulk));
            Py_DECREF(bulk);
            bytes += PyBytes_GET_SIZE(replies[number]);
            number++;
            at = behind;
        }
        if (number > 0) {
            self->tally->requests += number;
            if (hand_over_all(self, module, replies, number) < 0)
                return -1;
        }
    }
    if (at > data && sample(self, module, now_ms) < 0)
        return -1;
    return at - data;
}

static int
is_allowed(const Quiet *self, const Span *key)
{
    return key->size <= self->longest_key && !(key->size >= 4 && memcmp(key->at, "coh:", 4) == 0);
}

/* A GET that is all that has come. -> 1: it is answered, or asked; 0: it goes the general way */
static int
lone_get(Quiet *self, State *module, const Span *span)
{
    double now_ms;
    if (read_clock(self, module, &now_ms) < 0)
        return -1;
    PyObject *key = PyBytes_FromStringAndSize(span->at, span->size);
    if (key == NULL)
        return -1;
    PyObject *bulk = reply_of_hit(self, module, key, now_ms);
    if (bulk != NULL) {
        Py_DECREF(key);
        self->tally->requests++;
        int done = hand_over(self, module, in_protocol(self, module, bulk));
        Py_DECREF(bulk);
        return done < 0 || sample(self, module, now_ms) < 0 ? -1 : 1;
    }
    if (PyErr_Occurred() || !is_allowed(self, span)) {
        Py_DECREF(key);
        return PyErr_Occurred() ? -1 : 0;
    }
    self->tally->requests++;
    self->state = GETTING;
    PyObject *done = PyObject_CallFunctionObjArgs(self->get, key, (PyObject *)self, NULL);
    Py_DECREF(key);
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* The same of a SET. */
static int
lone_set(Quiet *self, State *module, const Span *key, const Span *bulk)
{
    if (!is_allowed(self, key) || bulk->size > self->longest_bulk)
        return 0;
    PyObject *name = PyBytes_FromStringAndSize(key->at, key->size);
    PyObject *value = PyBytes_FromStringAndSize(bulk->at, bulk->size);
    PyObject *request = NULL, *done = NULL;
    if (name != NULL && value != NULL)
        request = PyObject_CallFunctionObjArgs(module->set_type, name, value, NULL);
    Py_XDECREF(name);
    Py_XDECREF(value);
    if (request == NULL)
        return -1;
    self->tally->requests++;
    self->state = SETTING;
    self->alone_bytes = key->size + bulk->size;
    done = PyObject_CallFunctionObjArgs(self->submit, request, (PyObject *)self, NULL);
    Py_DECREF(request);
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* Whatever happens next goes the general way: what is asked gets a slot. */
static int
make_busy(Quiet *self, State *module)
{
    int state = self->state;
    self->state = BUSY;
    if (state != GETTING && state != SETTING)
        return 0;
    PyObject *size = PyLong_FromSsize_t(self->alone_bytes);
    if (size == NULL)
        return -1;
    PyObject *args[] = {(PyObject *)self, state == SETTING ? Py_True : Py_False, size};
    PyObject *done = PyObject_VectorcallMethod(module->open_alone, args,
                                               3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(size);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* What the client has sent. `whole`: the same as an object, where there is one. */
static int
take_in(Quiet *self, State *module, const char *first, Py_ssize_t size, PyObject *whole)
{
    const char *end = first + size, *at = first;
    Py_ssize_t taken = 0;
    if (self->state == QUIET) {
        Span key, bulk;
        int done = 0;
        if (take_get(&at, end, &key) && at == end)
            done = lone_get(self, module, &key);
        else if (take_set(first, end, &key, &bulk))
            done = lone_set(self, module, &key, &bulk);
        else
            taken = leading_hits(self, module, first, size);
        if (done < 0 || taken < 0)
            return -1;
        if (done || taken == size)
            return 0;
    }
    if (make_busy(self, module) < 0)
        return -1;
    PyObject *rest = taken == 0 && whole != NULL
                         ? Py_NewRef(whole)
                         : PyBytes_FromStringAndSize(first + taken, size - taken);
    if (rest == NULL)
        return -1;
    PyObject *done = PyObject_CallMethodOneArg((PyObject *)self, module->received, rest);
    Py_DECREF(rest);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
quiet_data_received(PyObject *object, PyObject *data)
{
    State *module = state_for(object, data, "what is received is bytes");
    if (module == NULL)
        return NULL;
    if (take_in((Quiet *)object, module, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* -- its socket -------------------------------------------------------------------------------- */

/* An error that nobody has seen to, as a transport does with one of `data_received`: the connection
 * is cut off, and it is logged. What is to end the process goes on. */
static int
fail(Quiet *self, State *module)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return -1;
#if PY_VERSION_HEX >= 0x030c0000
    PyObject *error = PyErr_GetRaisedException();
#else
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL)
        PyException_SetTraceback(error, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
#endif
    PyObject *done = PyObject_CallMethodOneArg((PyObject *)self, module->failed, error);
    Py_XDECREF(error);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
socket_took(Socket *socket, const char *data, Py_ssize_t size)
{
    Quiet *self = (Quiet *)socket;
    State *module = state_of((PyObject *)self);
    if (module == NULL)
        return -1;
    return take_in(self, module, data, size, NULL) < 0 ? fail(self, module) : 0;
}

static int
socket_ended(Socket *socket)
{
    Quiet *self = (Quiet *)socket;
    State *module = state_of((PyObject *)self);
    if (module == NULL)
        return -1;
    PyObject *told = PyObject_CallMethodNoArgs((PyObject *)self, module->eof_received);
    int is_kept = told == NULL ? -1 : PyObject_IsTrue(told);
    Py_XDECREF(told);
    if (is_kept < 0 || (!is_kept && tell_transport(self, module->close, NULL) < 0))
        return fail(self, module);
    return 0;
}

static int
socket_broke(Socket *socket)
{
    Quiet *self = (Quiet *)socket;
    State *module = state_of((PyObject *)self);
    return module == NULL ? -1 : tell_transport(self, module->abort, NULL);
}

/* use_socket(poller, fd): read and write it from now on; the transport reads no more. */
static PyObject *
quiet_use_socket(PyObject *object, PyObject *args)
{
    Quiet *self = (Quiet *)object;
    State *module = state_of(object);
    PyObject *poller;
    int fd;
    if (module == NULL
        || !PyArg_ParseTuple(args, "O!i:use_socket", module->poller_type, &poller, &fd))
        return NULL;
    PyObject *told = ask_transport(self, module->unwritten, NULL);
    if (told == NULL)
        return NULL;
    int is_behind = PyObject_IsTrue(told);
    Py_DECREF(told);
    if (is_behind < 0)
        return NULL;
    if (fd < 0 || self->socket.fd >= 0) {
        PyErr_SetString(PyExc_ValueError, "a socket is used once");
        return NULL;
    }
    self->socket.behind_transport = (char)is_behind;
    self->socket.poller = (Poller *)Py_NewRef(poller);
    self->socket.fd = fd;
    Py_RETURN_NONE;
}

/* The transport has lost it. */
static PyObject *
quiet_leave_socket(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    socket_leave(&((Quiet *)object)->socket);
    Py_RETURN_NONE;
}

static PyObject *
quiet_resume_reading(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Quiet *self = (Quiet *)object;
    State *module = state_of(object);
    if (module == NULL)
        return NULL;
    if (self->socket.poller != NULL && socket_watch(&self->socket) < 0) {
        PyErr_Clear(); /* the kernel watches no more for this user: the transport may have room */
        Py_CLEAR(self->socket.poller);
    }
    if (self->socket.poller == NULL && tell_transport(self, module->resume, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
quiet_pause_reading(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Quiet *self = (Quiet *)object;
    State *module = state_of(object);
    if (module == NULL)
        return NULL;
    if (self->socket.poller != NULL)
        socket_unwatch(&self->socket);
    else if (tell_transport(self, module->pause, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
quiet_write(PyObject *object, PyObject *data)
{
    State *module = state_for(object, data, "what is written is bytes");
    if (module == NULL)
        return NULL;
    if (hand_over((Quiet *)object, module, data) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* -- what Python sees -------------------------------------------------------------------------- */

static PyObject *
quiet_leading_hits(PyObject *object, PyObject *data)
{
    State *module = state_for(object, data, "what is received is bytes");
    if (module == NULL)
        return NULL;
    Py_ssize_t taken
        = leading_hits((Quiet *)object, module, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data));
    return taken < 0 ? NULL : PyLong_FromSsize_t(taken);
}

static PyObject *
quiet_busy(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    State *module = state_of(object);
    if (module == NULL || make_busy((Quiet *)object, module) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* The node's answer to what was asked. */
static PyObject *
quiet_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    Quiet *self = (Quiet *)object;
    State *module = state_of(object);
    if (module == NULL)
        return NULL;
    if (PyTuple_GET_SIZE(args) != 1 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "one outcome is expected");
        return NULL;
    }
    PyObject *outcome = PyTuple_GET_ITEM(args, 0), *reply = NULL;
    if (self->state != BUSY && PyBytes_CheckExact(outcome)) {
        Py_ssize_t size = PyBytes_GET_SIZE(outcome);
        if (self->state == GETTING)
            reply = in_protocol(self, module, outcome);
        else if (self->state == SETTING && size == PyBytes_GET_SIZE(module->done)
                   && memcmp(PyBytes_AS_STRING(outcome), PyBytes_AS_STRING(module->done),
                             (size_t)size)
                          == 0)
            reply = module->ok;
    }
    if (reply != NULL) {
        self->state = QUIET;
        self->reply_bytes += (PyBytes_GET_SIZE(reply) - self->reply_bytes) >> 3;
        if (hand_over(self, module, reply) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    if (make_busy(self, module) < 0)
        return NULL;
    return PyObject_CallMethodOneArg(object, module->fill_alone, outcome);
}

static int
quiet_traverse(PyObject *object, visitproc visit, void *arg)
{
    Quiet *self = (Quiet *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->socket.poller);
    Py_VISIT(self->front);
    Py_VISIT(self->transport);
    Py_VISIT(self->hit);
    Py_VISIT(self->now_ms);
    Py_VISIT(self->get);
    Py_VISIT(self->submit);
    return 0;
}

static int
quiet_clear(PyObject *object)
{
    Quiet *self = (Quiet *)object; /* the transport alone makes cycles; the others may be needed */
    Py_CLEAR(self->transport);
    return 0;
}

static void
quiet_dealloc(PyObject *object)
{
    Quiet *self = (Quiet *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    quiet_clear(object);
    Py_XDECREF(self->socket.poller);
    Py_XDECREF(self->front);
    Py_XDECREF(self->tally);
    Py_XDECREF(self->hit);
    Py_XDECREF(self->now_ms);
    Py_XDECREF(self->get);
    Py_XDECREF(self->submit);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef quiet_members[] = {
    {"front", T_OBJECT_EX, offsetof(Quiet, front), READONLY, NULL},
    {"tally", T_OBJECT_EX, offsetof(Quiet, tally), READONLY, NULL},
    {"state", T_INT, offsetof(Quiet, state), 0, NULL},
    {"resp3", T_BOOL, offsetof(Quiet, resp3), 0, NULL},
    {"_paused", T_BOOL, offsetof(Quiet, paused), 0, NULL},
    {"_reply_bytes", T_PYSSIZET, offsetof(Quiet, reply_bytes), 0, NULL},
    {"_transport", T_OBJECT_EX, offsetof(Quiet, transport), 0, NULL},
    {"_hit", T_OBJECT_EX, offsetof(Quiet, hit), READONLY, NULL},
    {"_now_ms", T_OBJECT_EX, offsetof(Quiet, now_ms), READONLY, NULL},
    {"_get", T_OBJECT_EX, offsetof(Quiet, get), READONLY, NULL},
    {"_submit", T_OBJECT_EX, offsetof(Quiet, submit), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef quiet_methods[] = {
    {"data_received", quiet_data_received, METH_O, NULL},
    {"leading_hits", quiet_leading_hits, METH_O, NULL},
    {"busy", quiet_busy, METH_NOARGS, NULL},
    {"bound", quiet_bound, METH_NOARGS, NULL},
    {"_write", quiet_write, METH_O, NULL},
    {"_pause_reading", quiet_pause_reading, METH_NOARGS, NULL},
    {"_resume_reading", quiet_resume_reading, METH_NOARGS, NULL},
    {"use_socket", quiet_use_socket, METH_VARARGS, NULL},
    {"leave_socket", quiet_leave_socket, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot quiet_slots[] = {
    {Py_tp_doc, "One connection, as long as it is quiet: see quiet_pure.Quiet."},
    {Py_tp_init, quiet_init},
    {Py_tp_call, quiet_call},
    {Py_tp_traverse, quiet_traverse},
    {Py_tp_clear, quiet_clear},
    {Py_tp_dealloc, quiet_dealloc},
    {Py_tp_members, quiet_members},
    {Py_tp_methods, quiet_methods},
    {0, NULL},
};

static PyType_Spec quiet_spec = {
    .name = "coherenced.serve._quiet.Quiet",
    .basicsize = sizeof(Quiet),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = quiet_slots,
};

/* -- the module -------------------------------------------------------------------------------- */

static PyObject *
boottime_ms(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing))
{
    double now_ms;
    return read_boottime(&now_ms) < 0 ? NULL : PyFloat_FromDouble(now_ms);
}

/* module.name, to be kept */
static PyObject *
imported(const char *module, const char *name)
{
    PyObject *found = PyImport_ImportModule(module);
    if (found == NULL)
        return NULL;
    PyObject *object = PyObject_GetAttrString(found, name);
    Py_DECREF(found);
    return object;
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL)
        return -1;
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    if (added == 0 && kept != NULL)
        *kept = (PyTypeObject *)type;
    else
        Py_DECREF(type);
    return added;
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    struct {
        PyObject **to;
        const char *name;
    } names[] = {
        {&state->bulk, "bulk"},
        {&state->received, "received"},
        {&state->open_alone, "open_alone"},
        {&state->fill_alone, "fill_alone"},
        {&state->sample, "sample"},
        {&state->write, "write"},
        {&state->unwritten, "get_write_buffer_size"},
        {&state->pause, "pause_reading"},
        {&state->resume, "resume_reading"},
        {&state->close, "close"},
        {&state->abort, "abort"},
        {&state->eof_received, "eof_received"},
        {&state->failed, "failed"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if ((*names[i].to = PyUnicode_InternFromString(names[i].name)) == NULL)
            return -1;
    struct {
        PyObject **to;
        const char *module, *name;
    } kept[] = {
        {&state->set_type, "coherenced.core.model", "Set"},
        {&state->done, "coherenced.wire.plan", "OK"},
        {&state->ok, "coherenced.wire.resp", "OK"},
        {&state->nil2, "coherenced.wire.resp", "NIL2"},
        {&state->nil3, "coherenced.wire.resp", "NIL3"},
    };
    for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
        *kept[i].to = imported(kept[i].module, kept[i].name);
        if (*kept[i].to == NULL)
            return -1;
        if (i > 0 && !PyBytes_CheckExact(*kept[i].to)) {
            PyErr_Format(PyExc_TypeError, "%s.%s is bytes", kept[i].module, kept[i].name);
            return -1;
        }
    }
    if ((state->boottime_ms = PyObject_GetAttrString(module, "boottime_ms")) == NULL)
        return -1;
    if (add_type(module, &tally_spec, &state->tally_type) < 0
        || add_type(module, &hit_spec, &state->hit_type) < 0
        || add_type(module, &poller_spec, &state->poller_type) < 0
        || add_type(module, &quiet_spec, NULL) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "SOURCE", SOURCE);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->tally_type);
    Py_VISIT(state->hit_type);
    Py_VISIT(state->poller_type);
    Py_VISIT(state->set_type);
    Py_VISIT(state->boottime_ms);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->tally_type);
    Py_CLEAR(state->hit_type);
    Py_CLEAR(state->poller_type);
    Py_CLEAR(state->set_type);
    Py_CLEAR(state->boottime_ms);
    Py_CLEAR(state->done);
    Py_CLEAR(state->ok);
    Py_CLEAR(state->nil2);
    Py_CLEAR(state->nil3);
    Py_CLEAR(state->bulk);
    Py_CLEAR(state->received);
    Py_CLEAR(state->open_alone);
    Py_CLEAR(state->fill_alone);
    Py_CLEAR(state->sample);
    Py_CLEAR(state->write);
    Py_CLEAR(state->unwritten);
    Py_CLEAR(state->pause);
    Py_CLEAR(state->resume);
    Py_CLEAR(state->close);
    Py_CLEAR(state->abort);
    Py_CLEAR(state->eof_received);
    Py_CLEAR(state->failed);
    return 0;
}

static void
module_free(void *module)
{
    module_clear((PyObject *)module);
}

static PyMethodDef module_methods[] = {
    {"boottime_ms", boottime_ms, METH_NOARGS,
     PyDoc_STR("The time by CLOCK_BOOTTIME: see quiet_pure.boottime_ms.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "coherenced.serve._quiet",
    .m_doc = PyDoc_STR("Quiet connections, compiled."),
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__quiet(void)
{
    return PyModuleDef_Init(&module_def);
}
