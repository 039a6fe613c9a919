/* The short path to an entry of L1: what `core.node.Node.hit` allows at once. Part of `_quiet.c`.
 *
 * `Hit` allows a part of what `Node.hit` does, the usual one, by the same laws (V3): proved within
 * the entry's bound, before its deadline, without tags, no mark set. Of all else that is held
 * `Node.hit` is asked. It reads the fields of entries where they are, without the interpreter.
 */

#define MAX_FREQUENCY 2 /* as in core.entry */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *l1, *slow; /* an L1, and `Node.hit` */
    PyTypeObject *entry_type, *lane_type;
    Py_ssize_t entries, marks, hits;                         /* where fields are: of the L1, */
    Py_ssize_t lane, deadline, bound, tags, frequency, bulk; /* of an entry, */
    Py_ssize_t verified;                                     /* of a lane */
} Hit;

#define AT(object, offset) (*(PyObject **)((char *)(object) + (offset)))

/* Where objects of this type have this field. */
static int
find_field(PyTypeObject *type, const char *name, Py_ssize_t *offset)
{
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found == NULL)
        return -1;
    int is_field = 0;
    if (Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        const PyMemberDef *field = ((PyMemberDescrObject *)found)->d_member;
        is_field = field->type == T_OBJECT_EX || field->type == T_OBJECT;
        *offset = field->offset;
    }
    Py_DECREF(found);
    if (!is_field)
        PyErr_Format(PyExc_TypeError, "%s.%s is not a field", type->tp_name, name);
    return is_field ? 0 : -1;
}

static int
hit_find_fields(Hit *self)
{
    static const char *const entry_names[]
        = {"lane", "deadline_ms", "bound_ms", "tags", "frequency", "bulk"};
    Py_ssize_t *const entry_fields[] = {&self->lane, &self->deadline, &self->bound,
                                        &self->tags, &self->frequency, &self->bulk};
    for (size_t i = 0; i < sizeof(entry_names) / sizeof(*entry_names); i++)
        if (find_field(self->entry_type, entry_names[i], entry_fields[i]) < 0)
            return -1;
    PyTypeObject *l1_type = Py_TYPE(self->l1);
    if (find_field(l1_type, "entries", &self->entries) < 0
        || find_field(l1_type, "marks", &self->marks) < 0
        || find_field(l1_type, "hits", &self->hits) < 0)
        return -1;
    return find_field(self->lane_type, "verified_at_ms", &self->verified);
}

/* What a field holds, if it is a float. */
static int
is_float(PyObject *object, double *value)
{
    if (object == NULL || !PyFloat_CheckExact(object))
        return 0;
    *value = PyFloat_AS_DOUBLE(object);
    return 1;
}

/* V3: whether this entry may be served at `now_ms` without a further look. Counts the hit. */
static int
is_usual(const Hit *self, PyObject *entry, double now_ms)
{
    if (!Py_IS_TYPE(entry, self->entry_type))
        return 0;
    PyObject *lane = AT(entry, self->lane), *tags = AT(entry, self->tags);
    PyObject *frequency = AT(entry, self->frequency), *counted = AT(self->l1, self->hits);
    double verified_ms, bound_ms, deadline_ms;
    if (lane == NULL || !Py_IS_TYPE(lane, self->lane_type) || frequency == NULL || counted == NULL
        || !is_float(AT(lane, self->verified), &verified_ms)
        || !is_float(AT(entry, self->bound), &bound_ms)
        || !is_float(AT(entry, self->deadline), &deadline_ms))
        return 0;
    if (!(now_ms - verified_ms <= bound_ms) || !(now_ms < deadline_ms))
        return 0;
    if (tags == NULL || !PyTuple_CheckExact(tags) || PyTuple_GET_SIZE(tags) != 0
        || AT(self->l1, self->marks) != Py_None)
        return 0;
    if (!PyLong_CheckExact(frequency) || !PyLong_CheckExact(counted))
        return 0;
    long often = PyLong_AsLong(frequency);
    long long hits = PyLong_AsLongLong(counted);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    PyObject *now_often = often < MAX_FREQUENCY ? PyLong_FromLong(often + 1) : Py_NewRef(frequency);
    PyObject *now_counted = PyLong_FromLongLong(hits + 1);
    if (now_often == NULL || now_counted == NULL) {
        Py_XDECREF(now_often);
        Py_XDECREF(now_counted);
        PyErr_Clear();
        return 0;
    }
    AT(entry, self->frequency) = now_often;
    AT(self->l1, self->hits) = now_counted;
    Py_DECREF(frequency);
    Py_DECREF(counted);
    return 1;
}

/* The entry of `key`, iff it may be served (a new reference), or None; NULL: an error is set. */
static PyObject *
find(const Hit *self, PyObject *key, double now_ms)
{
    PyObject *entries = AT(self->l1, self->entries);
    if (entries == NULL || !PyDict_CheckExact(entries)) {
        PyErr_SetString(PyExc_TypeError, "the index of an L1 is a dict");
        return NULL;
    }
    PyObject *entry = PyDict_GetItemWithError(entries, key);
    if (entry == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    if (is_usual(self, entry, now_ms))
        return Py_NewRef(entry);
    PyObject *now = PyFloat_FromDouble(now_ms);
    if (now == NULL)
        return NULL;
    PyObject *found = PyObject_CallFunctionObjArgs(self->slow, key, now, NULL);
    Py_DECREF(now);
    return found;
}

static PyObject *
hit_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names)
{
    if (PyVectorcall_NARGS(nargsf) != 2 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Hit takes a key and the time");
        return NULL;
    }
    double now_ms = PyFloat_AsDouble(args[1]);
    return now_ms == -1.0 && PyErr_Occurred() ? NULL : find((Hit *)callable, args[0], now_ms);
}

/* Hit(l1, slow, Entry, Lane) */
static PyObject *
hit_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *l1, *slow;
    PyTypeObject *entry_type, *lane_type;
    if (!PyArg_ParseTuple(args, "OOO!O!:Hit", &l1, &slow, &PyType_Type, &entry_type, &PyType_Type,
                          &lane_type))
        return NULL;
    Hit *self = (Hit *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = hit_call;
    self->l1 = Py_NewRef(l1);
    self->slow = Py_NewRef(slow);
    self->entry_type = (PyTypeObject *)Py_NewRef(entry_type);
    self->lane_type = (PyTypeObject *)Py_NewRef(lane_type);
    if (hit_find_fields(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
hit_traverse(PyObject *object, visitproc visit, void *arg)
{
    Hit *self = (Hit *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->l1);
    Py_VISIT(self->slow);
    Py_VISIT(self->entry_type);
    Py_VISIT(self->lane_type);
    return 0;
}

static void
hit_dealloc(PyObject *object)
{
    Hit *self = (Hit *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->l1);
    Py_XDECREF(self->slow);
    Py_XDECREF(self->entry_type);
    Py_XDECREF(self->lane_type);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef hit_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Hit, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot hit_slots[] = {
    {Py_tp_doc, "The short path to an entry of L1, as `Node.hit`."},
    {Py_tp_new, hit_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, hit_traverse},
    {Py_tp_dealloc, hit_dealloc},
    {Py_tp_members, hit_members},
    {0, NULL},
};

static PyType_Spec hit_spec = {
    .name = "coherenced.serve._quiet.Hit",
    .basicsize = sizeof(Hit),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hit_slots,
};
