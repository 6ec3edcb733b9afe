/*
 * libpatch: snippets as trees, built piece by piece; the typed counterpart of snippets in text (<libpatch/data.h>).
 *
 * A tree owns all that is made in it. Every value has a type; operands of an operator have the same type (patch_cast()
 * converts), conditions are PATCH_BOOL. What is made of something wrong is wrong itself: patch_queue_tree() and
 * patch_run_tree() say what it is. A tree is built by one thread at a time.
 *
 *	patch_tree *tree = patch_tree_new();
 *	patch_var big = patch_variable(tree, PATCH_U64, PATCH_PER_CPU, "big");
 *	patch_expr size = patch_arg(tree, 0);
 *	patch_stmt body = patch_if(tree, patch_binary(tree, PATCH_GT, size, patch_const(tree, PATCH_U64, 4096)),
 *	                           patch_add(tree, big, patch_const(tree, PATCH_U64, 1)), PATCH_NOTHING);
 *	patch_op op = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "malloc" };
 *	patch_queue_tree(PATCH_FENTRY, &op, tree, body);
 */
#ifndef LIBPATCH_TREE_H
#define LIBPATCH_TREE_H

#include <libpatch/data.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct patch_tree patch_tree;

/* Pieces of a tree. 0 is none. */
typedef struct { uint32_t id; } patch_expr;
typedef struct { uint32_t id; } patch_stmt;
typedef struct { uint32_t id; } patch_var;
typedef struct { uint32_t id; } patch_table;
typedef struct { uint32_t id; } patch_rings;

#ifdef __cplusplus
#define PATCH_NOTHING (patch_stmt())
#define PATCH_NO_VALUE (patch_expr())
#else
#define PATCH_NOTHING ((patch_stmt){ 0 })
#define PATCH_NO_VALUE ((patch_expr){ 0 })
#endif

typedef enum {
	PATCH_BOOL = 0, PATCH_I8, PATCH_I16, PATCH_I32, PATCH_I64, PATCH_U8, PATCH_U16, PATCH_U32, PATCH_U64,
	PATCH_F32, PATCH_F64, PATCH_POINTER,
	/* Of keys of maps only: PATCH_TEXT(bytes), PATCH_FRAMES(depth). */
	PATCH_TEXTS = 0x10000, PATCH_STACKS = 0x20000
} patch_type;

/* At most so many bytes, to 488; at most so many return addresses, to 61. */
#define PATCH_TEXT(bytes) ((patch_type)(PATCH_TEXTS | (bytes)))
#define PATCH_FRAMES(depth) ((patch_type)(PATCH_STACKS | (depth)))

typedef enum {
	/* One value. */
	PATCH_GLOBAL = 0,
	/* One for each thread. */
	PATCH_PER_THREAD,
	/* One for each CPU: it is added to, and read as the sum. */
	PATCH_PER_CPU
} patch_storage;

typedef enum {
	PATCH_PLUS = 0, PATCH_MINUS, PATCH_TIMES, PATCH_DIVIDED_BY, PATCH_MODULO, PATCH_BIT_AND, PATCH_BIT_OR, PATCH_BIT_XOR,
	/* Counts are taken modulo the width. */
	PATCH_SHIFT_LEFT, PATCH_SHIFT_RIGHT, PATCH_ROTATE_LEFT, PATCH_ROTATE_RIGHT,
	PATCH_EQ, PATCH_NE, PATCH_LT, PATCH_LE, PATCH_GT, PATCH_GE,
	PATCH_MIN, PATCH_MAX,
	/* Of conditions; the second is evaluated only if it matters. */
	PATCH_AND, PATCH_OR
} patch_binary_op;

typedef enum {
	PATCH_NEGATE = 0, PATCH_BIT_NOT, PATCH_NOT, PATCH_COUNT_ONES, PATCH_LEADING_ZEROS, PATCH_TRAILING_ZEROS, PATCH_SWAP_BYTES,
	PATCH_ABSOLUTE, PATCH_SQUARE_ROOT
} patch_unary_op;

typedef enum {
	/* PATCH_U32 */
	PATCH_TID = 0, PATCH_PID, PATCH_CPU,
	/* PATCH_U64: the time stamp counter; CLOCK_MONOTONIC. */
	PATCH_CYCLES, PATCH_NANOSECONDS,
	/* Of the probed instruction, PATCH_POINTER: the memory it accesses, itself, where it goes to. */
	PATCH_EFFECTIVE_ADDRESS, PATCH_ORIGINAL_ADDRESS, PATCH_DYNAMIC_TARGET,
	/* PATCH_U64 */
	PATCH_BYTES_ACCESSED
} patch_fact;

/* How patch_atomic() changes memory. */
typedef enum {
	PATCH_ATOMIC_ADD = 0, PATCH_ATOMIC_SUB, PATCH_ATOMIC_AND, PATCH_ATOMIC_OR, PATCH_ATOMIC_XOR, PATCH_ATOMIC_EXCHANGE,
	PATCH_ATOMIC_MIN, PATCH_ATOMIC_MAX
} patch_atomic_op;

/* What a map does with values for one key: keeps the last, counts them, adds them up, ... */
typedef enum {
	PATCH_LAST = 0, PATCH_COUNT, PATCH_SUM, PATCH_LEAST, PATCH_GREATEST, PATCH_AVERAGE, PATCH_STATS, PATCH_HISTOGRAM
} patch_gathers;

/* A case of patch_switch(); without values it is the default. It goes on with the next one unless patch_break() leaves it. */
typedef struct patch_case {
	const int64_t *values;
	size_t count;
	patch_stmt body;
} patch_case;

/* A tree; NULL only without memory. What was queued of a tree stays when it is freed. NULL is freed, too. */
patch_tree *patch_tree_new(void);
void patch_tree_free(patch_tree *tree);

/* A number by its bits: for floats those of IEEE 754. */
patch_expr patch_const(patch_tree *tree, patch_type type, uint64_t bits);
/* At the entry of a function its integer argument `number`, from 0, and its float argument (to 7); at the exit what it returns. */
patch_expr patch_arg(patch_tree *tree, unsigned number);
patch_expr patch_float_arg(patch_tree *tree, unsigned number);
patch_expr patch_returned(patch_tree *tree);
/* A general register of the program, PATCH_U64: enum patch_x86_64 numbers them. */
patch_expr patch_register(patch_tree *tree, unsigned reg);
patch_expr patch_fact_of(patch_tree *tree, patch_fact fact);
/* Memory of the program. Where there is none the run ends there, and the program goes on. */
patch_expr patch_load(patch_tree *tree, patch_type type, patch_expr address);
patch_expr patch_unary(patch_tree *tree, patch_unary_op op, patch_expr operand);
patch_expr patch_binary(patch_tree *tree, patch_binary_op op, patch_expr left, patch_expr right);
patch_expr patch_cast(patch_tree *tree, patch_type type, patch_expr value);
/* `condition ? yes : no` */
patch_expr patch_choose(patch_tree *tree, patch_expr condition, patch_expr yes, patch_expr no);
/* The lowest 64 bits of a vector register, PATCH_U64: what a function returns as a float is in 0. The same bits as another type. */
patch_expr patch_vector(patch_tree *tree, unsigned reg);
patch_expr patch_bits(patch_tree *tree, patch_type type, patch_expr value);
/* Change memory of the program at once, under any number of threads. The value before. */
patch_expr patch_atomic(patch_tree *tree, patch_atomic_op op, patch_type type, patch_expr address, patch_expr value);
patch_expr patch_compare_exchange(patch_tree *tree, patch_type type, patch_expr address, patch_expr expected, patch_expr value);
/*
 * Keys of maps and fields of records beside numbers. The text at an address up to a zero, at most `most` bytes (1 to 488); the name of
 * the thread (16 bytes); its return addresses, the direct caller's first, at most `depth` (1 to 61), found by the unwind tables of what
 * was loaded at the last patch_stack(), patch_queue_tree() or patch_run_tree(): after patch_init() only. Zeros are behind the last.
 */
patch_expr patch_text(patch_tree *tree, patch_expr address, unsigned most);
patch_expr patch_command(patch_tree *tree);
patch_expr patch_stack(patch_tree *tree, unsigned depth);
/* A function of this program that gives a PATCH_U64, and up to six integers for it. */
patch_expr patch_call(patch_tree *tree, uintptr_t function, const patch_expr *arguments, size_t count);

/* A variable that outlives the runs, 0 at first, and its value. */
patch_var patch_variable(patch_tree *tree, patch_type type, patch_storage storage, const char *name);
patch_expr patch_value(patch_tree *tree, patch_var variable);
/* A variable of one run, 0 at first, for patch_value(), patch_set() and patch_add(); so many of them. An index outside ends the run. */
patch_var patch_local(patch_tree *tree, patch_type type, const char *name);
patch_var patch_array(patch_tree *tree, patch_type type, unsigned length, const char *name);
patch_expr patch_element(patch_tree *tree, patch_var array, patch_expr index);
patch_stmt patch_set_element(patch_tree *tree, patch_var array, patch_expr index, patch_expr value);

patch_stmt patch_set(patch_tree *tree, patch_var variable, patch_expr value);
/* Exact under any number of threads. */
patch_stmt patch_add(patch_tree *tree, patch_var variable, patch_expr value);
patch_stmt patch_store(patch_tree *tree, patch_type type, patch_expr address, patch_expr value);
/* The program goes on with this value in the register. */
patch_stmt patch_set_register(patch_tree *tree, unsigned reg, patch_expr value);
/* Evaluates, for what a call does. */
patch_stmt patch_evaluate(patch_tree *tree, patch_expr value);
patch_stmt patch_if(patch_tree *tree, patch_expr condition, patch_stmt then, patch_stmt otherwise);
/* A run that makes too many rounds ends early. */
patch_stmt patch_while(patch_tree *tree, patch_expr condition, patch_stmt body);
/* With the condition behind each round; with `step` behind each round, also one that patch_continue() left. */
patch_stmt patch_do_while(patch_tree *tree, patch_stmt body, patch_expr condition);
patch_stmt patch_for(patch_tree *tree, patch_expr condition, patch_stmt step, patch_stmt body);
patch_stmt patch_break(patch_tree *tree);
patch_stmt patch_continue(patch_tree *tree);
patch_stmt patch_switch(patch_tree *tree, patch_expr value, const patch_case *cases, size_t count);
/* The thread stops until somebody sends SIGCONT; it runs a trap for the debugger that is attached. */
patch_stmt patch_stop(patch_tree *tree);
patch_stmt patch_debugger(patch_tree *tree);
patch_stmt patch_sequence(patch_tree *tree, const patch_stmt *body, size_t count);
/* Ends the run; with a value unless that is none. */
patch_stmt patch_return(patch_tree *tree, patch_expr value);

/*
 * A map from keys of these types to values of `type`, which are gathered as is said; without key types it is one value. `key` has a
 * piece for each type. A value that is not there is 0; one that finds no room is counted as dropped.
 */
patch_table patch_map(patch_tree *tree, patch_gathers how, patch_type type, const patch_type *keys, size_t count, const char *name);
/* `value` of a PATCH_COUNT is PATCH_NO_VALUE. */
patch_stmt patch_map_update(patch_tree *tree, patch_table map, const patch_expr *key, patch_expr value);
patch_stmt patch_map_delete(patch_tree *tree, patch_table map, const patch_expr *key);
/* Of PATCH_LAST to PATCH_GREATEST. */
patch_expr patch_map_value(patch_tree *tree, patch_table map, const patch_expr *key);
patch_expr patch_map_has(patch_tree *tree, patch_table map, const patch_expr *key);

/*
 * Rings of records, one for each CPU with room for `records` (16 to 65536) that were not read; one that finds no room is dropped and
 * counted. patch_emit() leaves a record of `kind` (to 65535), all of which have fields of the same types, 61 quadwords at most.
 */
patch_rings patch_rings_new(patch_tree *tree, unsigned records);
patch_stmt patch_emit(patch_tree *tree, patch_rings rings, unsigned kind, const patch_expr *fields, size_t count);

/*
 * Queues a tree, as patch_queue() does an operation of type PATCH_OP_SNIPPET; `op->snippet` is NULL. It may be changed
 * afterwards: what is queued stays as it was.
 *
 * Those of patch_queue(); PATCH_ERR_SNIPPET: something in `body` is wrong.
 */
patch_err patch_queue_tree(uint64_t flags, patch_op *op, const patch_tree *tree, patch_stmt body);

/* Runs a tree once, now, on the calling thread. As patch_run_once(). */
patch_err patch_run_tree(const patch_tree *tree, patch_stmt body, int64_t *value);

/*
 * The bits of a variable; of one for each thread or CPU, the sum of all.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL; PATCH_ERR_SNIPPET: the tree has no such variable.
 */
patch_err patch_read_variable(const patch_tree *tree, patch_var variable, uint64_t *value);

/*
 * Shows `visit` what a map holds, as patch_read_map() does.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL; PATCH_ERR_SNIPPET: the tree has no such map.
 */
patch_err patch_read_tree_map(const patch_tree *tree, patch_table map, patch_visit visit, void *data, uint64_t *dropped);

/*
 * Shows `take` every record that is finished and was not read, by rising time stamps: its kind, the time stamp counter, then its
 * fields, each in as many quadwords as it takes. `take` may call functions of libpatch. `*dropped` (if it is not NULL) is set to how
 * many found no room so far.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL; PATCH_ERR_SNIPPET: the tree has no such rings.
 */
patch_err patch_read_rings(const patch_tree *tree, patch_rings rings, patch_take take, void *data, uint64_t *dropped);

#ifdef __cplusplus
}
#endif

#endif /* LIBPATCH_TREE_H */
