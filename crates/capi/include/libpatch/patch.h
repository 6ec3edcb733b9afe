/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libpatch: put probes into the running program.
 *
 * A probe is a function that is called whenever the program reaches a place in its code: the entry of a
 * function, or any instruction. It sees the registers and may change them. Other threads may run the code
 * all the time.
 *
 *	patch_op op = {
 *		.type          = PATCH_OP_INSTALL,
 *		.addr.func_sym = "func",
 *		.probe         = probe,
 *	};
 *	patch_init(NULL, 0);
 *	patch_queue(PATCH_FENTRY, &op);
 *	patch_commit(NULL, NULL);
 *
 * patch_queue() only notes what shall be done; patch_commit() does all of it at once, or (by default) none.
 *
 * Errors. Every function returns PATCH_OK or the reason why it did nothing; patch_error_string() has the
 * cause and the remedy in words. Wrong use is answered by an error, with two exceptions: a pointer that is
 * not NULL has to be good, and what it points to must have the type it says.
 *
 * Threads. Every function may be called by any thread at any time, but not by a signal handler. A probe may
 * call them only where the probed code can hold no lock that they need (that of malloc is one). Probes do
 * not run while their thread is inside one of these functions, nor while it is inside another probe.
 *
 * Probes. A probe runs on the stack of the probed thread, at any instruction, with whatever locks the program
 * holds there: what a signal handler must not do, it must not do either. It has to return: no longjmp(), no
 * exception, no pthread_exit(). errno is kept. It may still be running in another thread when patch_commit()
 * or patch_fini() has removed it: its code and `user_data` have to stay.
 *
 * Fork. A child has the probes of its parent, and may change them without effect on the parent. Counts of
 * PATCH_OP_COUNT are one for both.
 *
 * Layouts. The sizes of all structures are part of the interface and stay as they are. What is added later
 * comes out of the `reserved` members, which have to be zero (an initializer sees to that), is a new value of
 * an enumeration, or is a new function. patch_probe_context is made by the library only, and may grow.
 */
#ifndef LIBPATCH_PATCH_H
#define LIBPATCH_PATCH_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__x86_64__) || defined(__ILP32__)
#error "libpatch works on x86-64 only"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header, as patch_version() gives that of the library: major, minor, patch, two digits each. */
#define PATCH_VERSION 100

/* Why a function did nothing, or an operation failed. */
typedef enum patch_err {
	PATCH_OK = 0,
	/* patch_init() was not called, or patch_fini() was. */
	PATCH_ERR_NOT_INIT = 1,
	/* patch_init() was called already. */
	PATCH_ERR_ALREADY_INIT = 2,
	/* A pointer is NULL that must not be. */
	PATCH_ERR_NULL = 3,
	/* Flags that do not exist, contradict each other or do not go with the operation. */
	PATCH_ERR_FLAGS = 4,
	/* An operation that makes no sense: unknown type, no address or several, `reserved` not zero. */
	PATCH_ERR_OP = 5,
	/* No such option, or not a value of it. */
	PATCH_ERR_OPTION = 6,
	/* The option cannot be changed while probes are installed. */
	PATCH_ERR_BUSY = 7,
	/* Nothing that the function works on has this cookie. */
	PATCH_ERR_COOKIE = 8,
	/* Not results of patch_commit(), or dropped before. */
	PATCH_ERR_RESULTS = 9,
	/* No module of the program has this name. */
	PATCH_ERR_NO_MODULE = 10,
	/* No function has this name. */
	PATCH_ERR_NO_SYMBOL = 11,
	/* The address is not in code, or the offset not in the function. */
	PATCH_ERR_NO_CODE = 12,
	/* The code there cannot be patched (with this trap policy). */
	PATCH_ERR_REFUSED = 13,
	/* The operating system refused; nothing was changed. */
	PATCH_ERR_SYSTEM = 14,
	/* Called by a signal handler or allocator that interrupted another of these functions. */
	PATCH_ERR_REENTRANT = 15,
	/* A fault of the library's own. */
	PATCH_ERR_INTERNAL = 16,
	/* The text of a snippet is wrong, where it is to be, or its run ended early. */
	PATCH_ERR_SNIPPET = 17,
	/* No snippet has a map of this name. */
	PATCH_ERR_MAP = 18
} patch_err;

/* What an operation does. */
typedef enum patch_op_type {
	/* Calls `probe` at the point. */
	PATCH_OP_INSTALL = 1,
	/* Counts at the point: exact under any number of threads, and much cheaper than a probe that counts. */
	PATCH_OP_COUNT = 2,
	/* Removes what `cookie` names. */
	PATCH_OP_REMOVE = 3,
	/* Lets what `cookie` names rest: the point runs at full speed again, the cookie stays good. */
	PATCH_OP_DISABLE = 4,
	/* Lets it run again. */
	PATCH_OP_ENABLE = 5,
	/* Runs `snippet` at the point. <libpatch/data.h> has what reads what it leaves. */
	PATCH_OP_SNIPPET = 6
} patch_op_type;

/* Flags of patch_queue(). An operation with an address has one of the first two. */

/* At the entry of a function: of those that are named, or that begin at `addr.addr`. */
#define PATCH_FENTRY ((uint64_t)1 << 0)
/* Before the instruction that begins at the address, whichever it is. */
#define PATCH_INSN ((uint64_t)1 << 1)
#define PATCH_ADDR PATCH_INSN
/* Runs before what is at the point already, not after it. */
#define PATCH_FIRST ((uint64_t)1 << 2)

/*
 * Where. One of `func_sym`, `pattern` and `addr` is set.
 *
 * Names are looked up by patch_commit(), in all modules that are loaded then except libpatch itself, among all
 * symbols that the files have: functions need not be exported. Where several functions have the name, all of
 * them are meant. Of an indirect function (IFUNC) the implementation is meant that the program uses.
 */
typedef struct patch_addr {
	/* A function: its symbol, or its name as written in C++ or Rust (`ns::f`, `ns::f(int)`). */
	const char *func_sym;
	/*
	 * All that fit a shell pattern (`str*`), each a site of its own; also the other forms of the command
	 * `incise`: MODULE!PATTERN, NAME+OFFSET, *0xADDRESS.
	 */
	const char *pattern;
	/*
	 * Only in modules of this name: a file name with or without version (`libc.so.6`, `libc`), a shell pattern
	 * for one, or a path. NULL: in all.
	 */
	const char *module;
	/* An address in memory; if `module` is set, an address as in that file (as nm prints it). */
	uintptr_t addr;
	/* Bytes behind `func_sym` or `addr`; only with PATCH_INSN. */
	uint64_t offset;
} patch_addr;

/*
 * The registers of the probed thread, at the point. Valid until the probe returns.
 */
struct patch_probe_context {
	/*
	 * By PATCH_X86_64_*. Changes take effect when the probe returns, except those to RSP and RIP, which are
	 * ignored; of RFLAGS the six arithmetic flags and DF are put back.
	 */
	uint64_t *gregs;
	/*
	 * Vector registers, number 0 first, `vreg_size` bytes each: 16 with PATCH_VECTOR_SSE (xmm0-15), 32 with
	 * PATCH_VECTOR_AVX (ymm0-15; 64, zmm0-15, where the processor has them, since code for ymm registers
	 * changes those), 64 with PATCH_VECTOR_AVX512 (zmm0-31). Changes take effect. NULL with PATCH_VECTOR_NONE.
	 */
	void *vregs;
	size_t vreg_size;
	/* As in the operation. */
	void *user_data;
};

/* Indices into `gregs`; the general registers have their hardware numbers. */
enum {
	PATCH_X86_64_RAX = 0,
	PATCH_X86_64_RCX = 1,
	PATCH_X86_64_RDX = 2,
	PATCH_X86_64_RBX = 3,
	PATCH_X86_64_RSP = 4,
	PATCH_X86_64_RBP = 5,
	PATCH_X86_64_RSI = 6,
	PATCH_X86_64_RDI = 7,
	PATCH_X86_64_R8 = 8,
	PATCH_X86_64_R9 = 9,
	PATCH_X86_64_R10 = 10,
	PATCH_X86_64_R11 = 11,
	PATCH_X86_64_R12 = 12,
	PATCH_X86_64_R13 = 13,
	PATCH_X86_64_R14 = 14,
	PATCH_X86_64_R15 = 15,
	PATCH_X86_64_RFLAGS = 16,
	/* The address of the probed instruction. */
	PATCH_X86_64_RIP = 17,
	PATCH_X86_64_GREGS = 18
};

typedef void (*patch_probe)(struct patch_probe_context *ctx);

/* An operation. 96 bytes. */
typedef struct patch_op {
	patch_op_type type;
	/* Where; not for operations on a cookie. */
	patch_addr addr;
	/* PATCH_OP_INSTALL: what is called there, and what it finds in its context. */
	patch_probe probe;
	void *user_data;
	/*
	 * PATCH_OP_INSTALL, PATCH_OP_COUNT, PATCH_OP_SNIPPET: set by patch_queue() to a number that was never used before and is not
	 * 0. It names this probe or counter from then on, at all its sites. Other operations: what they work on.
	 */
	uint64_t cookie;
	/* PATCH_OP_SNIPPET: statements in the language of docs/language.md. */
	const char *snippet;
	uint64_t reserved[2];
} patch_op;

/* How a site was patched. A trap costs microseconds a hit, all others nanoseconds. */
typedef enum patch_tactic {
	/* Not at all. */
	PATCH_TACTIC_NONE = 0,
	/* In padding made for it. */
	PATCH_TACTIC_NOP = 1,
	/* A call or jump leads elsewhere. */
	PATCH_TACTIC_RETARGET = 2,
	/* The instruction became a jump. */
	PATCH_TACTIC_JUMP = 3,
	/* The instruction and the unreachable bytes behind it became a jump. */
	PATCH_TACTIC_TAIL = 4,
	/* The instruction and those behind it became a jump. */
	PATCH_TACTIC_GROUP = 5,
	/* The instruction became a jump, whose last bytes are the instructions behind it. */
	PATCH_TACTIC_PUN = 6,
	/* The instruction became a trap. */
	PATCH_TACTIC_TRAP = 7,
	/* Some other way, which later versions may have names for. */
	PATCH_TACTIC_OTHER = 8
} patch_tactic;

/* What became of an operation at one site. 64 bytes. */
typedef struct patch_result {
	/* The operation. */
	uint64_t cookie;
	/* The site; 0 if none was found. */
	uintptr_t addr;
	/* PATCH_OK, or why it failed. */
	patch_err status;
	patch_tactic tactic;
	/* File name of the module and name of the function of the site; "" if unknown. */
	const char *module;
	const char *function;
	/* The reason in words; "" with PATCH_OK. */
	const char *reason;
	uint64_t reserved[2];
} patch_result;

/* What can be chosen. Each holds for the commits that follow. */
typedef enum patch_opt_type {
	/* How code is changed: PATCH_WX_*. No page is ever writable and executable at once, with any of them. */
	PATCH_OPT_WX_MODE = 1,
	/* What to do where only a trap fits: PATCH_TRAP_*. */
	PATCH_OPT_TRAP_POLICY = 2,
	/* Which vector registers probes may change: PATCH_VECTOR_*. */
	PATCH_OPT_VECTOR_STATE = 3,
	/* Whether a commit may succeed in part: PATCH_ATOMICITY_*. */
	PATCH_OPT_ATOMICITY = 4,
	/* What patch_commit() reports: PATCH_RESULTS_*. */
	PATCH_OPT_RESULTS = 5,
	/* What signal handlers see of probed code: PATCH_HANDLERS_*. */
	PATCH_OPT_HANDLERS = 6,
	/* Who can unwind out of displaced instructions: PATCH_UNWINDING_*. */
	PATCH_OPT_UNWINDING = 7
} patch_opt_type;

/* Values of PATCH_OPT_WX_MODE. It can be changed only while nothing is installed. */
enum {
	/* Whichever suits the change. The default. */
	PATCH_WX_AUTO = 0,
	/*
	 * Byte by byte through /proc/self/mem, with traps in between: a thread that runs the site meanwhile takes one,
	 * and is killed by it if it has SIGTRAP blocked.
	 */
	PATCH_WX_POKE = 1,
	/* Page by page: a changed copy takes the place of the page in one step. */
	PATCH_WX_SWAP = 2,
	/* The same with copies in memory files, for where /proc/self/mem cannot be used. */
	PATCH_WX_MEMFD = 3
};

/* Values of PATCH_OPT_HANDLERS. It can be changed only while nothing is installed. */
enum {
	/* The registers as they are: the instruction pointer may be that of a displaced instruction. The default. */
	PATCH_HANDLERS_ACTUAL = 0,
	/*
	 * Those of the original instruction, which a handler may change. Handlers that are there when patch_commit() is called
	 * are put behind gates, which is what sigaction(2) tells from then on.
	 */
	PATCH_HANDLERS_ORIGINAL = 1
};

/*
 * Values of PATCH_OPT_UNWINDING: who knows the frames of displaced instructions. Calls come back to where they were made
 * with any of them; it matters where a signal arrives. It can be changed only while nothing is installed.
 */
enum {
	/* gdb, of transactions that are small: larger ones take half as long again with it. The default. */
	PATCH_UNWINDING_AUTO = 0,
	/*
	 * The unwinder of the process too: exceptions, backtrace(3) and cancellation may begin in a signal handler. (libgcc
	 * before 13 takes a lock for each frame from then on: no backtrace(3) in handlers of signals that may arrive while an
	 * exception is thrown.)
	 */
	PATCH_UNWINDING_EVERYBODY = 1,
	/* Nobody: nothing is encoded for it. */
	PATCH_UNWINDING_NOBODY = 2,
	/* gdb. */
	PATCH_UNWINDING_DEBUGGERS = 3
};

/* Values of PATCH_OPT_TRAP_POLICY. */
enum {
	/* A trap is set, and the result says so. The default. */
	PATCH_TRAP_FALLBACK = 0,
	/* The site is refused. */
	PATCH_TRAP_FORBID = 1,
	/* A trap is set everywhere, also where a jump would fit. */
	PATCH_TRAP_FORCE = 2
};

/* Values of PATCH_OPT_VECTOR_STATE. What the processor lacks is not kept. Each costs some nanoseconds a hit. */
enum {
	/* All that the processor has. The default. */
	PATCH_VECTOR_FULL = 0,
	/* None: for probes that are compiled with -mgeneral-regs-only, and call only such functions. */
	PATCH_VECTOR_NONE = 1,
	PATCH_VECTOR_SSE = 2,
	PATCH_VECTOR_AVX = 3,
	PATCH_VECTOR_AVX512 = 4
};

/* Values of PATCH_OPT_ATOMICITY. */
enum {
	/* If one operation fails at one site, nothing is changed. The default. */
	PATCH_ATOMICITY_ALL_OR_NOTHING = 0,
	/* What can be done is done, and the rest reported. */
	PATCH_ATOMICITY_BEST_EFFORT = 1
};

/* Values of PATCH_OPT_RESULTS. */
enum {
	/* What failed. The default. */
	PATCH_RESULTS_FAILED = 0,
	/* Every site of every operation that inserts something, and what failed. */
	PATCH_RESULTS_ALL = 1
};

/* An option. 16 bytes. */
typedef struct patch_opt {
	patch_opt_type type;
	uint32_t reserved;
	uint64_t value;
} patch_opt;

/*
 * Sets the library up. `options` has `count` elements, of which the last of a type counts; NULL with 0 for the
 * defaults.
 *
 * PATCH_ERR_ALREADY_INIT, PATCH_ERR_NULL, PATCH_ERR_OPTION, PATCH_ERR_SYSTEM.
 */
patch_err patch_init(const patch_opt *options, size_t count);

/*
 * Removes everything that is installed, in one step, and forgets what is queued and counted: every byte of code
 * is as it was. patch_init() may be called again.
 *
 * PATCH_ERR_NOT_INIT; PATCH_ERR_SYSTEM: then nothing was changed.
 */
patch_err patch_fini(void);

/*
 * Sets an option.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL, PATCH_ERR_OPTION, PATCH_ERR_BUSY, PATCH_ERR_SYSTEM.
 */
patch_err patch_configure(const patch_opt *option);

/*
 * Notes an operation for the next commit. `op` and the strings in it are copied. Whether there is such a function
 * is found out by patch_commit().
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL (`op`, `probe` with PATCH_OP_INSTALL, `snippet` with PATCH_OP_SNIPPET),
 * PATCH_ERR_FLAGS, PATCH_ERR_OP,
 * PATCH_ERR_COOKIE: nothing installed has this cookie.
 */
patch_err patch_queue(uint64_t flags, patch_op *op);

/*
 * Forgets the operations with this cookie that are queued: an installation, or those on something installed.
 *
 * PATCH_ERR_NOT_INIT; PATCH_ERR_COOKIE: none is queued.
 */
patch_err patch_cancel(uint64_t cookie);

/*
 * Does what is queued, in one transaction, and empties the queue. Nothing queued is no error.
 *
 * `*results` is set to an array for patch_drop_results() (NULL if there are none), `*count` to its length. Unless
 * PATCH_OPT_RESULTS says otherwise it holds what failed, and so is empty after success. `results`, or both, may
 * be NULL.
 *
 * With PATCH_ATOMICITY_ALL_OR_NOTHING a failed operation makes the commit fail: the status of the first one is
 * returned, and nothing was changed. With PATCH_ATOMICITY_BEST_EFFORT it is PATCH_OK also then.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL (`count` alone); the status of an operation; PATCH_ERR_SYSTEM.
 */
patch_err patch_commit(patch_result **results, size_t *count);

/*
 * What a PATCH_OP_COUNT has counted so far; after its removal, in all. Known until patch_fini().
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL; PATCH_ERR_COOKIE: no counter that was committed has this cookie.
 */
patch_err patch_read_count(uint64_t cookie, uint64_t *count);

/*
 * Frees results and the strings in them. NULL is no error; may be called after patch_fini().
 *
 * PATCH_ERR_RESULTS.
 */
patch_err patch_drop_results(patch_result *results);

/*
 * The last error of the calling thread, its cause and its remedy: never NULL, "" if there was none. Good until
 * the thread's next error.
 */
const char *patch_error_string(void);

/* The version of the library, as PATCH_VERSION. */
uint32_t patch_version(void);

#ifdef __cplusplus
}
#endif

#endif /* LIBPATCH_PATCH_H */
