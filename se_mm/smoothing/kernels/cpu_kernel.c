// SPDX-License-Identifier: Apache-2.0
// The kernel of se_mm.smoothing.kernels.cpu: all units of all tensors, in one pass over what is picked.
// It does what triton_kernel.py does, and reads the same table.

#define _GNU_SOURCE  // for RTLD_DEFAULT
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the halves of a hash are read in the order of a little-endian machine"
#endif

// Compiled for several generations of processors, of which the loader takes the newest it can.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define CLONES
#endif

// Numbers that one program updates; even, since elements are drawn by two.
#define BLOCK 65536
// Bytes from which on a run is copied past the caches.
#define STREAMED 1024
// What a teacher has to have for that, lest it be in the caches before and after.
#define LARGE (INT64_C(1) << 26)
// Numbers that an average asks the memory for ahead: the processor itself does not look beyond a
// page. A multiple of what a line of the cache has of the smallest.
#define AHEAD 256
// Elements that are drawn at a time.
#define DRAWN 512

typedef struct {
    uintptr_t teacher, student;
    uint64_t first;         // key of the first unit; for elements, of the first two
    int64_t size, numbers;  // numbers in a unit, and in all
    int64_t channels;       // 1: elements in another order than their names' are not taken
} Tensor;

typedef struct {
    double weight;  // of the student's value
    int averages;   // whether a picked unit moves by it; otherwise it is copied
    int streams;    // whether copies go past the caches
} Average;

// Update `count` numbers, all of them.
typedef void (*Run)(void *teacher, const void *student, int64_t count, Average average);
// Update those of `count` elements that are picked; `key` is that of the first two.
typedef void (*Elements)(void *teacher, const void *student, int64_t count, Average average,
                         uint64_t key, int32_t least);

// SplitMix64's finaliser and increment: see picks.py.
#define INCREMENT UINT64_C(0x9E3779B97F4A7C15)

static inline uint64_t mixed(uint64_t number) {
    number = (number ^ (number >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    number = (number ^ (number >> 27)) * UINT64_C(0x94D049BB133111EB);
    return number ^ (number >> 31);
}

static inline void draw(int32_t *halves, uint64_t key) {
    uint64_t hashes[DRAWN / 2];
    for (int i = 0; i < DRAWN / 2; i++) hashes[i] = mixed(key + (uint64_t)i * INCREMENT);
    memcpy(halves, hashes, sizeof hashes);
}

// What each dtype is stored and worked with as.
typedef float float32;
typedef double float64;
typedef uint16_t bfloat16;
typedef float float32_work;
typedef double float64_work;
typedef float bfloat16_work;

static inline float load_float32(float number) { return number; }
static inline float store_float32(float number) { return number; }
static inline double load_float64(double number) { return number; }
static inline double store_float64(double number) { return number; }

static inline float load_bfloat16(uint16_t number) {
    uint32_t bits = (uint32_t)number << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t store_bfloat16(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    // To the nearest, of two equally near to the even one; NaN stays NaN.
    uint16_t rounded = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    return number == number ? rounded : 0x7FC0;
}

#ifdef __FLT16_MAX__
typedef _Float16 float16;
typedef float float16_work;
static inline float load_float16(_Float16 number) { return (float)number; }
static inline _Float16 store_float16(float number) { return (_Float16)number; }
#endif

// How old follows new: as torch.lerp does it, from the nearer end. What is equal stays, so that equal
// infinities, as of a mask, do not become NaN.
#define MOVED(OLD, NEW, WEIGHT)                                                                   \
    ((OLD) == (NEW)    ? (OLD)                                                                    \
     : (WEIGHT) < 0.5f ? (OLD) + (WEIGHT) * ((NEW) - (OLD))                                       \
                       : (NEW) - ((NEW) - (OLD)) * (1 - (WEIGHT)))

// Draw the picks of `count` elements, and do what DO says of each.
#define EACH_PICK(T, S, DO)                                                                       \
    int32_t halves[DRAWN];                                                                        \
    for (int64_t start = 0; start < count; start += DRAWN) {                                      \
        T *restrict teacher = (T *)teachers + start;                                              \
        const S *restrict student = (const S *)students + start;                                  \
        int some = count - start < DRAWN ? (int)(count - start) : DRAWN;                          \
        draw(halves, key + (uint64_t)(start / 2) * INCREMENT);                                    \
        for (int i = 0; i < some; i++) {                                                          \
            int picked = halves[i] >= least;                                                      \
            DO                                                                                    \
        }                                                                                         \
    }

// The student's value is first brought to the teacher's dtype, as a copy of it would be.
#define UPDATE(T, S)                                                                              \
    static inline T T##_##S##_updated(T teacher, S student, T##_work weight, int averages) {      \
        T copied = store_##T((T##_work)load_##S(student));                                        \
        T##_work old = load_##T(teacher), new = load_##T(copied);                                 \
        return averages ? store_##T(MOVED(old, new, weight)) : copied;                            \
    }                                                                                             \
    CLONES static void T##_##S##_run(void *teachers, const void *students, int64_t count,         \
                                     Average average) {                                           \
        T *restrict teacher = teachers;                                                           \
        const S *restrict student = students;                                                     \
        T##_work weight = (T##_work)average.weight;                                               \
        for (int64_t start = 0; start < count; start += AHEAD) {                                  \
            int64_t end = start + AHEAD < count ? start + AHEAD : count;                          \
            if (end < count)                                                                      \
                for (int64_t i = end; i < end + AHEAD; i += 16) {                                 \
                    __builtin_prefetch(teacher + i, 1);                                           \
                    __builtin_prefetch(student + i);                                              \
                }                                                                                 \
            for (int64_t i = start; i < end; i++)                                                 \
                teacher[i] = T##_##S##_updated(teacher[i], student[i], weight, average.averages); \
        }                                                                                         \
    }                                                                                             \
    CLONES static void T##_##S##_elements(void *teachers, const void *students, int64_t count,    \
                                          Average average, uint64_t key, int32_t least) {         \
        T##_work weight = (T##_work)average.weight;                                               \
        EACH_PICK(T, S, {                                                                         \
            T new = T##_##S##_updated(teacher[i], student[i], weight, average.averages);          \
            teacher[i] = picked ? new : teacher[i];                                               \
        })                                                                                        \
    }

// Copy long runs past the caches: a teacher's values are not read again soon, and a store through
// the caches would read what it overwrites.
static inline void copy(char *teacher, const char *student, size_t bytes, int streams) {
#ifdef __SSE2__
    if (streams && bytes >= STREAMED) {
        size_t ahead = -(uintptr_t)teacher % 16;
        memcpy(teacher, student, ahead);
        for (; ahead + 16 <= bytes; ahead += 16)
            _mm_stream_si128((__m128i *)(teacher + ahead),
                             _mm_loadu_si128((const __m128i *)(student + ahead)));
        teacher += ahead, student += ahead, bytes -= ahead;
        _mm_sfence();
    }
#endif
    memcpy(teacher, student, bytes);
}

// Values of one dtype are copied as integers, whatever they stand for.
#define COPY(T)                                                                                   \
    static void T##_copy_run(void *teacher, const void *student, int64_t count,                  \
                             Average average) {                                                   \
        copy(teacher, student, (size_t)count * sizeof(T), average.streams);                       \
    }                                                                                             \
    CLONES static void T##_copy_elements(void *teachers, const void *students, int64_t count,     \
                                         Average unused, uint64_t key, int32_t least) {           \
        EACH_PICK(T, T, {                                                                         \
            T bits = (T)-(T)picked; /* all or none */                                             \
            teacher[i] ^= (teacher[i] ^ student[i]) & bits;                                       \
        })                                                                                        \
    }

COPY(uint8_t)
COPY(uint16_t)
COPY(uint32_t)
COPY(uint64_t)

#define UPDATES(T) UPDATE(T, float32) UPDATE(T, float64) UPDATE(T, bfloat16)
UPDATES(float32)
UPDATES(float64)
UPDATES(bfloat16)
#ifdef __FLT16_MAX__
UPDATES(float16)
UPDATE(float32, float16)
UPDATE(float64, float16)
UPDATE(bfloat16, float16)
UPDATE(float16, float16)
#endif

typedef struct {
    const char *teacher, *student;
    size_t teacher_bytes, student_bytes;
    Run run;
    Elements elements;
} Way;

#define COPIES(T, NAME) {NAME, NAME, sizeof(T), sizeof(T), T##_copy_run, T##_copy_elements}
#define WAY(T, S) {#T, #S, sizeof(T), sizeof(S), T##_##S##_run, T##_##S##_elements}
#define WAYS(T) WAY(T, float32), WAY(T, float64), WAY(T, bfloat16)

static const Way ways[] = {
    COPIES(uint8_t, "int8"),
    COPIES(uint16_t, "int16"),
    COPIES(uint32_t, "int32"),
    COPIES(uint64_t, "int64"),
    WAYS(float32),
    WAYS(float64),
    WAYS(bfloat16),
#ifdef __FLT16_MAX__
    WAYS(float16),
    WAY(float32, float16),
    WAY(float64, float16),
    WAY(bfloat16, float16),
    WAY(float16, float16),
#endif
};

static const Way *find_way(const char *teacher, const char *student) {
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(ways[i].teacher, teacher) && !strcmp(ways[i].student, student))
            return &ways[i];
    return NULL;
}

typedef struct {
    const Way *way;
    const Tensor *table;
    const int32_t *programs;  // of each, the tensor and which block of it
    int64_t count, next;      // of programs; the next one
    uint64_t key;
    int32_t least;
    Average average;
    int by_element;
} Job;

// Take one program after the other until none is left. Several threads may do so at once.
static void run_programs(void *arguments) {
    Job *job = arguments;
    const Way *way = job->way;
    for (;;) {
        int64_t program = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (program >= job->count) return;
        const Tensor *tensor = job->table + job->programs[2 * program];
        int64_t start = (int64_t)job->programs[2 * program + 1] * BLOCK;
        int64_t end = start + BLOCK < tensor->numbers ? start + BLOCK : tensor->numbers;
        char *teacher = (char *)tensor->teacher;
        const char *student = (const char *)tensor->student;
        uint64_t first = tensor->first + job->key;
        if (job->by_element) {
            way->elements(teacher + start * way->teacher_bytes, student + start * way->student_bytes,
                          end - start, job->average, first + (uint64_t)(start / 2) * INCREMENT,
                          job->least);
            continue;
        }
        for (int64_t unit = start / tensor->size; start < end; unit++) {
            int64_t stop = (unit + 1) * tensor->size < end ? (unit + 1) * tensor->size : end;
            if ((int32_t)(mixed(first + (uint64_t)unit * INCREMENT) >> 32) >= job->least)
                way->run(teacher + start * way->teacher_bytes, student + start * way->student_bytes,
                         stop - start, job->average);
            start = stop;
        }
    }
}

// Runs a function on some threads of the OpenMP library that PyTorch has loaded. Threads of our own
// would share the processor with PyTorch's, which go on spinning for a while after their work.
typedef void (*Parallel)(void (*function)(void *), void *arguments, unsigned threads, unsigned flags);

static PyObject *update(PyObject *self, PyObject *args) {
    const char *teacher, *student;
    unsigned long long table, programs, key;
    long long count, bytes;
    int least, averages, by_element, threads;
    double weight;
    if (!PyArg_ParseTuple(args, "ssKKLLKipdpi", &teacher, &student, &table, &programs, &count,
                          &bytes, &key, &least, &averages, &weight, &by_element, &threads))
        return NULL;
    Job job = {
        .way = find_way(teacher, student),
        .table = (const Tensor *)(uintptr_t)table,
        .programs = (const int32_t *)(uintptr_t)programs,
        .count = count,
        .key = key,
        .least = least,
        .average = {weight, averages, bytes >= LARGE},
        .by_element = by_element,
    };
    if (!job.way) return PyErr_Format(PyExc_TypeError, "no update of %s from %s", teacher, student);
    Parallel parallel = threads > 1 ? (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel") : NULL;
    Py_BEGIN_ALLOW_THREADS
    if (parallel)
        parallel(run_programs, &job, (unsigned)threads, 0);
    else
        run_programs(&job);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *takes(PyObject *self, PyObject *args) {
    const char *teacher, *student;
    if (!PyArg_ParseTuple(args, "ss", &teacher, &student)) return NULL;
    return PyBool_FromLong(find_way(teacher, student) != NULL);
}

static PyMethodDef methods[] = {
    {"takes", takes, METH_VARARGS,
     "takes(teacher, student)\n--\n\nWhether there is an update of these dtypes, given by name."},
    {"update", update, METH_VARARGS,
     "update(teacher, student, table, programs, count, bytes, key, least, averages, weight, by_element, "
     "threads)\n--\n\n"
     "Update the picked units of many tensors. The arguments are those of triton_kernel.update but for\n"
     "names of dtypes, addresses of the tables, and the numbers of programs, of bytes that all teachers\n"
     "have, and of threads."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "cpu_kernel", "All units of all tensors on the CPU.", -1, methods,
};

PyMODINIT_FUNC PyInit_cpu_kernel(void) {
    PyObject *kernel = PyModule_Create(&module);
    if (kernel) PyModule_AddIntConstant(kernel, "BLOCK", BLOCK);
    return kernel;
}
