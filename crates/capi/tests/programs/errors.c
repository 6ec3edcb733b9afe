/* Wrong use gives an error and never a crash, and changes nothing. */
#include <pthread.h>
#include <string.h>

#include "check.h"

#include <libpatch/data.h>

__attribute__((noinline)) int twice(int x)
{
	__asm__ volatile("");
	return 2 * x;
}

/* Volatile: the compiler sees no call of the probe. */
static volatile int hits;

static void probe(struct patch_probe_context *ctx)
{
	(void)ctx;
	hits++;
}

static patch_op twice_op(void)
{
	patch_op op = {.type = PATCH_OP_INSTALL, .addr.func_sym = "twice", .probe = probe};
	return op;
}

static void before_init(void)
{
	patch_op op = twice_op();
	patch_opt option = {PATCH_OPT_WX_MODE, 0, PATCH_WX_AUTO};
	patch_result *results = (patch_result *)&op;
	size_t count = 7;
	uint64_t value;

	CHECK(!strcmp(patch_error_string(), ""));
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_fini());
	CHECK(strstr(patch_error_string(), "patch_init"));
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_configure(&option));
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_queue(PATCH_FENTRY, &op));
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_cancel(1));
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_read_count(1, &value));
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_commit(&results, &count));
	CHECK(results == NULL && count == 0);
	OK(patch_drop_results(NULL));
	CHECK_IS(PATCH_ERR_RESULTS, patch_drop_results((patch_result *)&op));
}

static void options(void)
{
	patch_opt bad[] = {{PATCH_OPT_WX_MODE, 0, PATCH_WX_SWAP}, {(patch_opt_type)77, 0, 0}};
	patch_opt option;

	CHECK_IS(PATCH_ERR_NULL, patch_init(NULL, 1));
	CHECK_IS(PATCH_ERR_OPTION, patch_init(bad, 2));
	/* Nothing was set up. */
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_fini());
	OK(patch_init(bad, 1));
	CHECK_IS(PATCH_ERR_ALREADY_INIT, patch_init(NULL, 0));
	CHECK_IS(PATCH_ERR_NULL, patch_configure(NULL));
	for (int type = PATCH_OPT_WX_MODE; type <= PATCH_OPT_UNWINDING; type++) {
		option = (patch_opt){(patch_opt_type)type, 0, 99};
		CHECK_IS(PATCH_ERR_OPTION, patch_configure(&option));
		CHECK(strstr(patch_error_string(), "99"));
		option.value = UINT64_MAX;
		CHECK_IS(PATCH_ERR_OPTION, patch_configure(&option));
		option.value = 0;
		option.reserved = 1;
		CHECK_IS(PATCH_ERR_OPTION, patch_configure(&option));
		option.reserved = 0;
		OK(patch_configure(&option));
	}
	OK(patch_fini());
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_fini());
}

static void operations(void)
{
	patch_op op;

	CHECK_IS(PATCH_ERR_NULL, patch_queue(PATCH_FENTRY, NULL));
	op = twice_op();
	CHECK_IS(PATCH_ERR_FLAGS, patch_queue(0, &op));
	CHECK_IS(PATCH_ERR_FLAGS, patch_queue(PATCH_FIRST, &op));
	CHECK_IS(PATCH_ERR_FLAGS, patch_queue(PATCH_FENTRY | PATCH_INSN, &op));
	CHECK_IS(PATCH_ERR_FLAGS, patch_queue(PATCH_FENTRY | (uint64_t)1 << 63, &op));
	op.type = (patch_op_type)0;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op.type = (patch_op_type)1234;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.reserved[1] = 1;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.probe = NULL;
	CHECK_IS(PATCH_ERR_NULL, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.type = PATCH_OP_COUNT;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.addr.func_sym = NULL;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op.addr.func_sym = "";
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op.addr.func_sym = "\xff\xfe";
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op.addr.func_sym = "twice";
	op.addr.pattern = "twice";
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.addr.addr = (uintptr_t)twice;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.addr.offset = 1;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op = twice_op();
	op.snippet = "return;";
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op.type = PATCH_OP_SNIPPET;
	CHECK_IS(PATCH_ERR_OP, patch_queue(PATCH_FENTRY, &op));
	op.probe = NULL;
	op.snippet = NULL;
	CHECK_IS(PATCH_ERR_NULL, patch_queue(PATCH_FENTRY, &op));
	op = (patch_op){.type = PATCH_OP_COUNT, .addr.addr = 16, .addr.offset = UINT64_MAX};
	CHECK_IS(PATCH_ERR_NO_CODE, patch_queue(PATCH_INSN, &op));
	CHECK(op.cookie == 0);
	/* None of them was queued. */
	OK(patch_commit(NULL, NULL));
	CHECK(twice(4) == 8 && hits == 0);
}

static int never(const patch_entry *entry, void *data)
{
	(void)entry;
	(void)data;
	return 1;
}

static void snippets(void)
{
	patch_op op = {.type = PATCH_OP_SNIPPET, .addr.func_sym = "twice", .snippet = "@x = arg0 +;"};
	char text[8];
	size_t length;
	int64_t value;

	OK(patch_queue(PATCH_FENTRY, &op));
	CHECK_IS(PATCH_ERR_SNIPPET, patch_commit(NULL, NULL));
	CHECK(strstr(patch_error_string(), "@x = arg0 +;"));
	CHECK_IS(PATCH_ERR_MAP, patch_read_map("x", never, NULL, NULL));
	CHECK_IS(PATCH_ERR_MAP, patch_clear_map("x"));
	CHECK_IS(PATCH_ERR_NULL, patch_read_map(NULL, never, NULL, NULL));
	CHECK_IS(PATCH_ERR_NULL, patch_read_text(NULL, 8, &length, NULL));
	CHECK_IS(PATCH_ERR_NULL, patch_read_text(text, 8, NULL, NULL));
	OK(patch_read_text(text, sizeof text, &length, NULL));
	CHECK(length == 0 && !text[0]);
	CHECK_IS(PATCH_ERR_NULL, patch_run_once(NULL, &value));
	CHECK_IS(PATCH_ERR_SNIPPET, patch_run_once("return nobody;", &value));
	CHECK_IS(PATCH_ERR_SNIPPET, patch_run_once("return *(long *)16;", &value));
	OK(patch_run_once("return 1 << 4;", &value));
	CHECK(value == 16);
	/* What is longer than the buffer is cut; what has no room waits. */
	op.snippet = "if (arg0 == 5) override(50); printf(\"%d and no more\", arg0); printf(\"\\n\");";
	OK(patch_queue(PATCH_FENTRY, &op));
	OK(patch_commit(NULL, NULL));
	CHECK(twice(4) == 8 && twice(5) == 50);
	OK(patch_read_text(text, sizeof text, &length, NULL));
	CHECK(length == 7 && !strcmp(text, "4 and n"));
	OK(patch_read_text(text, sizeof text, &length, NULL));
	CHECK(length == 1 && !strcmp(text, "\n"));
	op.type = PATCH_OP_REMOVE;
	op.snippet = NULL;
	OK(patch_queue(0, &op));
	OK(patch_commit(NULL, NULL));
	CHECK(twice(5) == 10);
}

/* A commit of one operation fails like this. */
static void fails(patch_err expected, uint64_t flags, patch_op op, const char *reason)
{
	patch_result *results;
	size_t count;

	OK(patch_queue(flags, &op));
	CHECK_IS(expected, patch_commit(&results, &count));
	CHECK(count == 1);
	CHECK(results->status == expected && results->cookie == op.cookie);
	CHECK(results->tactic == PATCH_TACTIC_NONE);
	CHECK(strstr(results->reason, reason));
	CHECK(strstr(patch_error_string(), reason));
	OK(patch_drop_results(results));
	CHECK_IS(PATCH_ERR_RESULTS, patch_drop_results(results));
	/* It is not tried again. */
	OK(patch_commit(&results, &count));
	CHECK(results == NULL && count == 0);
}

static void places(void)
{
	static int data;
	patch_op op = twice_op();

	op.addr.func_sym = "twise";
	fails(PATCH_ERR_NO_SYMBOL, PATCH_FENTRY, op, "did you mean twice");
	/* The wildcards of a symbol stand for themselves. */
	op.addr.func_sym = "twic?";
	fails(PATCH_ERR_NO_SYMBOL, PATCH_FENTRY, op, "no function");
	op.addr.func_sym = "twice";
	op.addr.module = "libmissing.so";
	fails(PATCH_ERR_NO_MODULE, PATCH_FENTRY, op, "libmissing.so");
	op.addr.module = "libc.so.6";
	fails(PATCH_ERR_NO_SYMBOL, PATCH_FENTRY, op, "errors!twice");
	op = twice_op();
	op.addr.offset = 1 << 20;
	fails(PATCH_ERR_NO_CODE, PATCH_INSN, op, "bytes");
	op = twice_op();
	op.addr.func_sym = NULL;
	op.addr.pattern = "twice+0x";
	fails(PATCH_ERR_OP, PATCH_INSN, op, "offset");
	op.addr.pattern = "main+4";
	fails(PATCH_ERR_OP, PATCH_FENTRY, op, "PATCH_INSN");
	op.addr.pattern = NULL;
	op.addr.addr = (uintptr_t)&data;
	fails(PATCH_ERR_NO_CODE, PATCH_INSN, op, "executable");
	op.addr.addr = 16;
	fails(PATCH_ERR_NO_CODE, PATCH_INSN, op, "executable");
	op.addr.addr = UINTPTR_MAX;
	fails(PATCH_ERR_NO_CODE, PATCH_INSN, op, "executable");
	op.addr.module = "libc.so.6";
	fails(PATCH_ERR_NO_CODE, PATCH_INSN, op, "not in the code");
}

static void cookies(void)
{
	patch_op op = twice_op();
	patch_op change = {.type = PATCH_OP_REMOVE, .cookie = 12345};
	uint64_t value;
	size_t count;
	patch_result *results;

	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &change));
	change.type = PATCH_OP_ENABLE;
	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &change));
	CHECK_IS(PATCH_ERR_COOKIE, patch_cancel(0));
	CHECK_IS(PATCH_ERR_COOKIE, patch_cancel(12345));

	/* An installation that is cancelled does not happen. */
	OK(patch_queue(PATCH_FENTRY, &op));
	change.type = PATCH_OP_REMOVE;
	change.cookie = op.cookie;
	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &change));
	CHECK(strstr(patch_error_string(), "patch_cancel"));
	OK(patch_cancel(op.cookie));
	CHECK_IS(PATCH_ERR_COOKIE, patch_cancel(op.cookie));
	OK(patch_commit(NULL, NULL));
	CHECK(twice(4) == 8 && hits == 0);

	OK(patch_queue(PATCH_FENTRY, &op));
	CHECK_IS(PATCH_ERR_NULL, patch_commit(&results, NULL));
	OK(patch_commit(NULL, &count));
	CHECK(count == 0 && twice(4) == 8 && hits == 1);
	CHECK_IS(PATCH_ERR_COOKIE, patch_cancel(op.cookie));
	CHECK(strstr(patch_error_string(), "PATCH_OP_REMOVE"));
	CHECK_IS(PATCH_ERR_COOKIE, patch_read_count(op.cookie, &value));
	CHECK_IS(PATCH_ERR_NULL, patch_read_count(op.cookie, NULL));
	patch_opt option = {PATCH_OPT_WX_MODE, 0, PATCH_WX_MEMFD};
	CHECK_IS(PATCH_ERR_BUSY, patch_configure(&option));

	/* A removal that is cancelled does not happen; the second one does. */
	change.cookie = op.cookie;
	CHECK_IS(PATCH_ERR_FLAGS, patch_queue(PATCH_FENTRY, &change));
	OK(patch_queue(0, &change));
	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &change));
	OK(patch_cancel(op.cookie));
	OK(patch_commit(NULL, NULL));
	CHECK(twice(4) == 8 && hits == 2);
	OK(patch_queue(0, &change));
	OK(patch_commit(NULL, NULL));
	CHECK(twice(4) == 8 && hits == 2);
	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &change));
	OK(patch_configure(&option));
}

static void *other_thread(void *ours)
{
	CHECK(!strcmp(patch_error_string(), ""));
	CHECK_IS(PATCH_ERR_COOKIE, patch_cancel(999));
	CHECK(strstr(patch_error_string(), "999"));
	CHECK(strcmp(patch_error_string(), ours));
	return NULL;
}

int main(void)
{
	pthread_t thread;

	before_init();
	options();
	OK(patch_init(NULL, 0));
	operations();
	snippets();
	places();
	cookies();
	CHECK_IS(PATCH_ERR_COOKIE, patch_cancel(555));
	CHECK(!pthread_create(&thread, NULL, other_thread, (void *)patch_error_string()));
	CHECK(!pthread_join(thread, NULL));
	CHECK(strstr(patch_error_string(), "555"));
	OK(patch_fini());
	printf("ok\n");
	return 0;
}
