/*
 * Functions that the library itself calls can be probed. Probes do not run while their thread is inside of the
 * library or of another probe, probes may call the library, and its own code is left alone.
 */
#include <string.h>

#include "check.h"

__attribute__((noinline, noclone)) int work(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

static volatile int allocations, depth, deepest;
static uint64_t own_cookie;

static void on_malloc(struct patch_probe_context *ctx)
{
	(void)ctx;
	allocations++;
	depth++;
	deepest = depth > deepest ? depth : deepest;
	free(malloc(10));
	depth--;
}

static void remove_itself(struct patch_probe_context *ctx)
{
	(void)ctx;
	patch_op op = {.type = PATCH_OP_REMOVE, .cookie = own_cookie};
	OK(patch_queue(0, &op));
	OK(patch_commit(NULL, NULL));
}

int main(void)
{
	patch_op op = {.type = PATCH_OP_INSTALL, .addr.func_sym = "malloc", .addr.module = "libc",
		       .probe = on_malloc};
	patch_opt all = {PATCH_OPT_RESULTS, 0, PATCH_RESULTS_ALL};
	patch_result *results;
	size_t count;
	uint64_t hits;

	OK(patch_init(&all, 1));
	OK(patch_queue(PATCH_FENTRY, &op));
	OK(patch_commit(NULL, NULL));
	void *volatile memory = malloc(100);
	free(memory);
	CHECK(allocations == 1 && deepest == 1);
	/* A commit allocates; its probe is silent. */
	patch_op counter = {.type = PATCH_OP_COUNT, .addr.func_sym = "malloc", .addr.module = "libc"};
	OK(patch_queue(PATCH_FENTRY, &counter));
	OK(patch_commit(&results, &count));
	CHECK(allocations == 1 && count == 1);
	OK(patch_drop_results(results));
	/* A counter counts everyone. */
	memory = malloc(100);
	free(memory);
	OK(patch_read_count(counter.cookie, &hits));
	CHECK(allocations == 2 && hits >= 2);
	OK(patch_fini());

	/* A probe that removes itself. */
	OK(patch_init(&all, 1));
	op = (patch_op){.type = PATCH_OP_INSTALL, .addr.func_sym = "work", .probe = remove_itself};
	OK(patch_queue(PATCH_FENTRY, &op));
	own_cookie = op.cookie;
	OK(patch_commit(NULL, NULL));
	CHECK(work(1) == 2 && work(1) == 2);
	patch_op again = {.type = PATCH_OP_REMOVE, .cookie = own_cookie};
	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &again));

	/* The library's own code. */
	op = (patch_op){.type = PATCH_OP_COUNT, .addr.addr = (uintptr_t)patch_commit};
	OK(patch_queue(PATCH_FENTRY, &op));
	CHECK_IS(PATCH_ERR_REFUSED, patch_commit(NULL, NULL));
	CHECK(strstr(patch_error_string(), "libpatch"));
	op = (patch_op){.type = PATCH_OP_COUNT, .addr.pattern = "patch_*"};
	OK(patch_queue(PATCH_FENTRY, &op));
	CHECK_IS(PATCH_ERR_REFUSED, patch_commit(NULL, NULL));
	OK(patch_fini());
	printf("ok\n");
	return 0;
}
