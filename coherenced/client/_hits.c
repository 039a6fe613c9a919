/* Hits of L0, compiled: what `pure.py` does, as one call. Optional; `hits.py` chooses.
 *
 *     Kept         what a hit looks at: the counters of the shared page, and what a caller is given
 *     HitsFirst    makes of a method one that looks for a hit before it is called
 *     look         the same for who is no such method: the answer, or what says that there is none
 *
 * Laws and order are those of `L0.find`: a proof was read before `until_s` was set, the clock says
 * that it lasts, and then the counters are loaded (P2). A counter is loaded as a whole, and nothing
 * that comes after it in the program before it.
 *
 * Each Kept holds the page's buffer, so that its mapping lives as long as a pointer into it; where
 * its counters are was checked when it was made. Whatever is unusual (other arguments, a key that
 * cannot be hashed, a copy that must be proved anew) is left to the method in Python. All of this
 * runs under the interpreter's lock: where there is none the module is not built.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if UINTPTR_MAX < UINT64_MAX
#error "a word of the page is read as a whole: on 64-bit processors only"
#endif

/* As `l0.BOOTTIME`: it goes on while the host is suspended. */
#ifdef CLOCK_BOOTTIME
#define CLOCK CLOCK_BOOTTIME
#else
#define CLOCK CLOCK_MONOTONIC
#endif

/* Where a client keeps the dict of its copies. */
#define HOT "_hot"

typedef struct {
    PyTypeObject *kept_type;
    PyObject *hot_name;
} State;

/* -- Kept -------------------------------------------------------------------------------------- */

typedef struct {
    const uint64_t *at;
    uint64_t count;
} Counter;

/* It holds on to what the memoryview shows, not to the memoryview as a buffer: up to CPython 3.11
 * and 3.12.3 a collector that finds one in a cycle clears it under those who look through it, and
 * the process crashes (gh-77894). */
typedef struct {
    PyObject_HEAD
    PyObject *words;   /* the memoryview, for those who ask */
    Py_buffer page;    /* of the object behind it: its memory stays while this is held */
    Counter *counters; /* of its key, of the lane, of each tag; NULL until it is made */
    Py_ssize_t counted;
    double until_s;
    PyObject *value;
    PyObject *fresh;
    Py_ssize_t hits;
    char found;
} Kept;

/* One pair (slot, what it stood at) of a page as this shows it. */
static int
take_counter(const Py_buffer *shown, PyObject *pair, Counter *counter)
{
    Py_ssize_t slot, words = shown->len / (Py_ssize_t)sizeof(uint64_t);
    unsigned long long count;
    if (!PyArg_ParseTuple(pair, "nK", &slot, &count))
        return -1;
    if (slot < 0 || slot >= words) {
        PyErr_Format(PyExc_IndexError, "slot %zd of a page of %zd words", slot, words);
        return -1;
    }
    counter->at = (const uint64_t *)shown->buf + slot;
    counter->count = count;
    return 0;
}

/* The counters of so many pairs, of a page as this shows it. NULL with an error set: refused. */
static Counter *
take_counters(const Py_buffer *shown, PyObject *pairs)
{
    if (shown->ndim != 1 || shown->format == NULL || strcmp(shown->format, "Q") != 0
        || (uintptr_t)shown->buf % sizeof(uint64_t) != 0) {
        PyErr_SetString(PyExc_TypeError, "a page is a memoryview of whole 64-bit words");
        return NULL;
    }
    Py_ssize_t counted = PyTuple_GET_SIZE(pairs);
    Counter *counters = PyMem_New(Counter, (size_t)counted);
    if (counters == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < counted; i++)
        if (take_counter(shown, PyTuple_GET_ITEM(pairs, i), &counters[i]) < 0) {
            PyMem_Free(counters);
            return NULL;
        }
    return counters;
}

/* Kept(words, counters): the page as a memoryview of 64-bit words; a tuple of pairs. */
static int
kept_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Kept *self = (Kept *)object;
    PyObject *words, *pairs;
    if (!PyArg_ParseTuple(
            args, "O!O!:Kept", &PyMemoryView_Type, &words, &PyTuple_Type, &pairs))
        return -1;
    if (self->counters != NULL || PyTuple_GET_SIZE(pairs) == 0) {
        PyErr_SetString(PyExc_ValueError, "what proves it is given once, and is not nothing");
        return -1;
    }
    Py_buffer shown;
    if (PyObject_GetBuffer(words, &shown, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    Counter *counters = take_counters(&shown, pairs);
    PyObject *behind = PyMemoryView_GET_BASE(words);
    if (counters != NULL && behind == NULL)
        PyErr_SetString(PyExc_TypeError, "a page has an object that its memory belongs to");
    else if (counters != NULL && PyObject_GetBuffer(behind, &self->page, PyBUF_SIMPLE) == 0) {
        self->words = Py_NewRef(words);
        self->counters = counters;
        self->counted = PyTuple_GET_SIZE(pairs);
    }
    PyBuffer_Release(&shown);
    if (self->counters != NULL)
        return 0;
    PyMem_Free(counters);
    return -1;
}

static int
kept_traverse(PyObject *object, visitproc visit, void *arg)
{
    Kept *self = (Kept *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->words);
    Py_VISIT(self->page.obj);
    Py_VISIT(self->value);
    Py_VISIT(self->fresh);
    return 0;
}

static int
kept_clear(PyObject *object)
{
    Kept *self = (Kept *)object; /* not the page: somebody may look at it still */
    Py_CLEAR(self->value);
    Py_CLEAR(self->fresh);
    return 0;
}

static void
kept_dealloc(PyObject *object)
{
    Kept *self = (Kept *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    kept_clear(object);
    PyMem_Free(self->counters);
    PyBuffer_Release(&self->page);
    Py_XDECREF(self->words);
    type->tp_free(object);
    Py_DECREF(type);
}

/* P1: none of its counters has moved. */
static int
holds(const Kept *self)
{
    if (self->counters == NULL)
        return 0;
    for (const Counter *c = self->counters, *end = c + self->counted; c < end; c++)
        if (__atomic_load_n(c->at, __ATOMIC_ACQUIRE) != c->count)
            return 0;
    return 1;
}

static PyObject *
kept_holds(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    return PyBool_FromLong(holds((Kept *)object));
}

static PyMemberDef kept_members[] = {
    {"words", T_OBJECT, offsetof(Kept, words), READONLY, NULL},
    {"until_s", T_DOUBLE, offsetof(Kept, until_s), 0, NULL},
    {"found", T_BOOL, offsetof(Kept, found), 0, NULL},
    {"value", T_OBJECT, offsetof(Kept, value), 0, NULL},
    {"fresh", T_OBJECT, offsetof(Kept, fresh), 0, NULL},
    {"hits", T_PYSSIZET, offsetof(Kept, hits), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef kept_methods[] = {
    {"holds", kept_holds, METH_NOARGS, PyDoc_STR("P1: none of its counters has moved.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot kept_slots[] = {
    {Py_tp_doc, "What a hit looks at: see pure.Kept."},
    {Py_tp_init, kept_init},
    {Py_tp_traverse, kept_traverse},
    {Py_tp_clear, kept_clear},
    {Py_tp_dealloc, kept_dealloc},
    {Py_tp_members, kept_members},
    {Py_tp_methods, kept_methods},
    {0, NULL},
};

static PyType_Spec kept_spec = {
    .name = "coherenced.client._hits.Kept",
    .basicsize = sizeof(Kept),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = kept_slots,
};

/* -- a hit ------------------------------------------------------------------------------------- */

static double
now_s(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK, &now) != 0)
        return INFINITY; /* nothing lasts so long */
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* What a caller of `key` is given, if a copy of it may be served now. NULL without an error set:
 * it may not. */
static PyObject *
hit(PyTypeObject *kept_type, PyObject *hot, PyObject *key, PyObject *otherwise)
{
    if (!PyDict_Check(hot))
        return NULL;
    PyObject *found = PyDict_GetItemWithError(hot, key);
    if (found == NULL) {
        if (PyErr_Occurred()
            && (PyErr_ExceptionMatches(PyExc_KeyError) || PyErr_ExceptionMatches(PyExc_TypeError)))
            PyErr_Clear(); /* no key at all: the method says so */
        return NULL;
    }
    if (!PyObject_TypeCheck(found, kept_type))
        return NULL;
    Kept *kept = (Kept *)found;
    if (!(now_s() < kept->until_s) || !holds(kept))
        return NULL;
    kept->hits++;
    PyObject *answer = kept->fresh;
    if (answer != NULL && answer != Py_None) {
        /* It may run anything, an eviction of this copy among it. */
        Py_INCREF(answer);
        PyObject *made = PyObject_CallNoArgs(answer);
        Py_DECREF(answer);
        return made;
    }
    answer = kept->found ? kept->value : otherwise;
    return Py_NewRef(answer != NULL ? answer : Py_None);
}

static PyObject *
look(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError, "look() takes a dict, a key, a default, and a sign");
        return NULL;
    }
    State *state = PyModule_GetState(module);
    PyObject *answer = hit(state->kept_type, args[0], args[1], args[2]);
    return answer != NULL || PyErr_Occurred() ? answer : Py_NewRef(args[3]);
}

/* -- HitsFirst --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *method;
    PyTypeObject *kept_type;
    PyObject *hot_name;
    PyObject *dict; /* `functools.update_wrapper` writes name, text and signature there */
    PyObject *weak;
} HitsFirst;

/* method(client, key), (client, key, default) or (client, key, default=default): all else is for
 * the method. */
static PyObject *
first_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names)
{
    HitsFirst *self = (HitsFirst *)callable;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    int is_plain = named == 0 && (nargs == 2 || nargs == 3);
    if (named == 1 && nargs == 2)
        is_plain = PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "default") == 0;
    if (is_plain) {
        PyObject *hot = PyObject_GetAttr(args[0], self->hot_name);
        if (hot == NULL)
            return NULL;
        PyObject *otherwise = nargs + named == 3 ? args[2] : Py_None;
        PyObject *answer = hit(self->kept_type, hot, args[1], otherwise);
        Py_DECREF(hot);
        if (answer != NULL || PyErr_Occurred())
            return answer;
    }
    return PyObject_Vectorcall(self->method, args, nargsf, names);
}

static PyObject *
first_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *method;
    if (!PyArg_ParseTuple(args, "O:HitsFirst", &method))
        return NULL;
    State *state = PyType_GetModuleState(type);
    HitsFirst *self = state == NULL ? NULL : (HitsFirst *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = first_call;
    self->method = Py_NewRef(method);
    self->kept_type = (PyTypeObject *)Py_NewRef(state->kept_type);
    self->hot_name = Py_NewRef(state->hot_name);
    return (PyObject *)self;
}

/* As a function's: a bound method, or itself when it is asked of the class. */
static PyObject *
first_get(PyObject *self, PyObject *client, PyObject *Py_UNUSED(type))
{
    return client == NULL || client == Py_None ? Py_NewRef(self) : PyMethod_New(self, client);
}

static int
first_traverse(PyObject *object, visitproc visit, void *arg)
{
    HitsFirst *self = (HitsFirst *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->method);
    Py_VISIT(self->kept_type);
    Py_VISIT(self->dict);
    return 0;
}

static int
first_clear(PyObject *object)
{
    HitsFirst *self = (HitsFirst *)object; /* not its method: somebody may call it still */
    Py_CLEAR(self->dict);
    return 0;
}

static void
first_dealloc(PyObject *object)
{
    HitsFirst *self = (HitsFirst *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weak != NULL)
        PyObject_ClearWeakRefs(object);
    first_clear(object);
    Py_XDECREF(self->method);
    Py_XDECREF(self->kept_type);
    Py_XDECREF(self->hot_name);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef first_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(HitsFirst, call), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(HitsFirst, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(HitsFirst, weak), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef first_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot first_slots[] = {
    {Py_tp_doc, "A method that looks for a hit before it is called: see pure.hits_first."},
    {Py_tp_new, first_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, first_get},
    {Py_tp_traverse, first_traverse},
    {Py_tp_clear, first_clear},
    {Py_tp_dealloc, first_dealloc},
    {Py_tp_members, first_members},
    {Py_tp_getset, first_getset},
    {0, NULL},
};

/* METHOD_DESCRIPTOR: called through an object, it is given the object without a bound method. */
static PyType_Spec first_spec = {
    .name = "coherenced.client._hits.HitsFirst",
    .basicsize = sizeof(HitsFirst),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL
             | Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = first_slots,
};

/* -- the module -------------------------------------------------------------------------------- */

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->hot_name = PyUnicode_InternFromString(HOT);
    state->kept_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &kept_spec, NULL);
    if (state->hot_name == NULL || state->kept_type == NULL
        || PyModule_AddType(module, state->kept_type) < 0)
        return -1;
    PyObject *first_type = PyType_FromModuleAndSpec(module, &first_spec, NULL);
    if (first_type == NULL)
        return -1;
    int added = PyModule_AddType(module, (PyTypeObject *)first_type);
    Py_DECREF(first_type);
    if (added < 0)
        return -1;
    return PyModule_AddIntConstant(module, "SOURCE", SOURCE);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->kept_type);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->kept_type);
    Py_CLEAR(state->hot_name);
    return 0;
}

static void
module_free(void *module)
{
    module_clear((PyObject *)module);
}

static PyMethodDef module_methods[] = {
    {"look", (PyCFunction)(void (*)(void))look, METH_FASTCALL,
     PyDoc_STR("look(hot, key, default, nowhere): see pure.look.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "coherenced.client._hits",
    .m_doc = PyDoc_STR("Hits of L0, compiled."),
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__hits(void)
{
    return PyModuleDef_Init(&module_def);
}
