/* Sockets that are read and written past their transports. Part of `_quiet.c`.
 *
 * A transport of the event loop costs as much for each chunk that comes as what is done with it: a
 * call of the interpreter, an object for the bytes, a context to run in. Here one `Poller` waits
 * for all sockets by an epoll instance of its own, which the loop watches as one descriptor, and
 * reads them into one buffer. Replies are sent at once. What a socket does not take, and every
 * error in writing, is the transport's, which also opens and closes: a descriptor is valid from
 * `connection_made` until `connection_lost`, behind which the transport closes it.
 */

#define CHUNK_BYTES (256 * 1024)
#define TURN_SOCKETS 256 /* so many are read before anything else that the loop waits for */

typedef struct Poller Poller;

/* What an object begins with whose socket it is. */
typedef struct {
    PyObject_HEAD
    Poller *poller;        /* who reads it, or NULL: its transport does */
    int fd;                /* -1: all of it is the transport's */
    char is_watched;       /* it is read */
    char behind_transport; /* the transport has something to write first */
} Socket;

struct Poller {
    PyObject_HEAD
    int epoll; /* -1: it is closed */
    int room;
    Socket **watched; /* by descriptor */
    char *chunk;      /* what is being taken in */
    char in_turn;
};

/* What is done with what a socket gives. -1: an error is set that ends the process. */
static int socket_took(Socket *self, const char *data, Py_ssize_t size);
static int socket_ended(Socket *self);
static int socket_broke(Socket *self);

/* Each is told of once for what has come (edge-triggered, epoll(7)): else the kernel looks at it
 * again in the next turn, for a tenth of what a hit costs. Where there may be more, that is asked
 * for: EPOLL_CTL_MOD. */
static int
poller_control(const Poller *self, int what, int fd)
{
    uint32_t events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET;
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(self->epoll, what, fd, &event);
}

/* It is read no more. Its poller's reference to it is the caller's to give up, last of all: that
 * may run anything. */
static void
socket_forget(Socket *self)
{
    Poller *poller = self->poller;
    self->is_watched = 0;
    (void)epoll_ctl(poller->epoll, EPOLL_CTL_DEL, self->fd, NULL);
    poller->watched[self->fd] = NULL;
}

static void
socket_unwatch(Socket *self)
{
    if (!self->is_watched)
        return;
    socket_forget(self);
    Py_DECREF((PyObject *)self);
}

/* Have it read. -1: an error is set. It may run anything. */
static int
socket_watch(Socket *self)
{
    Poller *poller = self->poller;
    if (self->is_watched)
        return 0;
    if (self->fd >= poller->room) {
        int room = self->fd + self->fd / 2 + 64;
        Socket **watched = PyMem_Realloc(poller->watched, (size_t)room * sizeof(*watched));
        if (watched == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memset(watched + poller->room, 0, (size_t)(room - poller->room) * sizeof(*watched));
        poller->watched = watched;
        poller->room = room;
    }
    Socket *old = poller->watched[self->fd];
    if (old != NULL) /* closed behind our back, and its number given again */
        socket_forget(old);
    int done = poller_control(poller, EPOLL_CTL_ADD, self->fd);
    if (done < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else {
        poller->watched[self->fd] = (Socket *)Py_NewRef((PyObject *)self);
        self->is_watched = 1;
    }
    Py_XDECREF((PyObject *)old);
    return done;
}

static void
socket_leave(Socket *self)
{
    Py_INCREF((PyObject *)self);
    socket_unwatch(self);
    Py_CLEAR(self->poller);
    self->fd = -1;
    Py_DECREF((PyObject *)self);
}

/* How much of it the socket takes at once; 0: all is for the transport. */
static Py_ssize_t
socket_send(const Socket *self, const char *data, Py_ssize_t size)
{
    if (self->fd < 0 || self->behind_transport)
        return 0;
    ssize_t sent = send(self->fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? 0 : sent;
}

/* -- Poller ------------------------------------------------------------------------------------ */

/* One that something has come for: the data, and maybe the end behind them. The kernel also stops
 * short of what is urgent (EPOLLPRI), and behind descriptors that are passed: they are not taken
 * (MSG_CTRUNC). */
static int
poller_read(Poller *self, Socket *socket, uint32_t events)
{
    struct iovec to = {.iov_base = self->chunk, .iov_len = CHUNK_BYTES};
    struct msghdr taken = {.msg_iov = &to, .msg_iovlen = 1};
    ssize_t size;
    do
        size = recvmsg(socket->fd, &taken, MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
    if (size > 0) {
        int is_all = size < CHUNK_BYTES && !(taken.msg_flags & MSG_CTRUNC)
                     && !(events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR));
        if (is_all || poller_control(self, EPOLL_CTL_MOD, socket->fd) == 0)
            return socket_took(socket, self->chunk, size);
    } else if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    return size == 0 ? socket_ended(socket) : socket_broke(socket);
}

static int
poller_read_all(Poller *self)
{
    struct epoll_event events[TURN_SOCKETS];
    int number = epoll_wait(self->epoll, events, TURN_SOCKETS, 0);
    if (number < 0 && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    for (int i = 0; i < number; i++) {
        Socket *socket = self->watched[events[i].data.fd];
        if (socket == NULL) /* not any more, since this very turn */
            continue;
        Py_INCREF((PyObject *)socket);
        int done = poller_read(self, socket, events[i].events);
        Py_DECREF((PyObject *)socket);
        if (done < 0) {
            while (++i < number) /* one's error is not the others': they are told of again */
                (void)poller_control(self, EPOLL_CTL_MOD, events[i].data.fd);
            return -1;
        }
    }
    return 0;
}

/* Take in what has come: once from each socket. For the loop to call, whenever `fileno` is ready. */
static PyObject *
poller_turn(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Poller *self = (Poller *)object;
    if (self->epoll < 0 || self->in_turn) {
        PyErr_SetString(PyExc_RuntimeError, self->in_turn ? "in a turn" : "it is closed");
        return NULL;
    }
    self->in_turn = 1;
    int done = poller_read_all(self);
    self->in_turn = 0;
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
poller_fileno(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    return PyLong_FromLong(((Poller *)object)->epoll);
}

/* Nothing is read any more. */
static PyObject *
poller_close(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Poller *self = (Poller *)object;
    if (self->epoll >= 0)
        (void)close(self->epoll);
    self->epoll = -1;
    Py_RETURN_NONE;
}

static int
poller_traverse(PyObject *object, visitproc visit, void *arg)
{
    Poller *self = (Poller *)object;
    Py_VISIT(Py_TYPE(object));
    for (int fd = 0; fd < self->room; fd++)
        Py_VISIT(self->watched[fd]);
    return 0;
}

static int
poller_clear(PyObject *object)
{
    Poller *self = (Poller *)object;
    for (int fd = 0; fd < self->room; fd++)
        if (self->watched[fd] != NULL)
            socket_unwatch(self->watched[fd]);
    return 0;
}

static PyObject *
poller_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Poller *self = (Poller *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else if ((self->chunk = PyMem_Malloc(CHUNK_BYTES)) == NULL)
        PyErr_NoMemory();
    else
        return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static void
poller_dealloc(PyObject *object)
{
    Poller *self = (Poller *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->epoll >= 0)
        (void)close(self->epoll);
    PyMem_Free(self->watched);
    PyMem_Free(self->chunk);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef poller_methods[] = {
    {"turn", poller_turn, METH_NOARGS, NULL},
    {"fileno", poller_fileno, METH_NOARGS, NULL},
    {"close", poller_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poller_slots[] = {
    {Py_tp_doc, "Reads the sockets of quiet connections, and of those that were."},
    {Py_tp_new, poller_new},
    {Py_tp_traverse, poller_traverse},
    {Py_tp_clear, poller_clear},
    {Py_tp_dealloc, poller_dealloc},
    {Py_tp_methods, poller_methods},
    {0, NULL},
};

static PyType_Spec poller_spec = {
    .name = "coherenced.serve._quiet.Poller",
    .basicsize = sizeof(Poller),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = poller_slots,
};
