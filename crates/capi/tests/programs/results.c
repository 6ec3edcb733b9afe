/* A commit is whole, or best effort; both say what failed, where and why. */
#include <string.h>

#include "check.h"

__attribute__((noinline, noclone)) int good(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x * 1000 + 12345;
}

/*
 * No jump fits on `tiny`: it is one byte, and the bytes behind it, which belong to another function, would lead a
 * jump below address 0 (the program is not position-independent). Nor is there code around it that could give way.
 * `broken` is no instruction.
 */
__asm__(".text\n"
	".globl tiny, after_tiny, broken\n"
	".type tiny, @function\n"
	".type after_tiny, @function\n"
	".type broken, @function\n"
	"	.fill 128, 1, 0x06\n"
	"tiny:\n"
	"	ret\n"
	"	.size tiny, . - tiny\n"
	"after_tiny:\n"
	"	ret\n"
	"	.size after_tiny, . - after_tiny\n"
	"	.byte 0xc3, 0xc3, 0x80\n"
	"	.fill 128, 1, 0x06\n"
	"broken:\n"
	"	.byte 0x06, 0x06, 0x06, 0x06, 0x06, 0x06\n"
	"	.size broken, . - broken\n");
void tiny(void);

/* Volatile: the compiler sees no call of the probe. */
static volatile int hits;

static void probe(struct patch_probe_context *ctx)
{
	(void)ctx;
	hits++;
}

static uint64_t queue(const char *function)
{
	patch_op op = {.type = PATCH_OP_INSTALL, .addr.func_sym = function, .probe = probe};
	OK(patch_queue(PATCH_FENTRY, &op));
	return op.cookie;
}

static void set(patch_opt_type type, uint64_t value)
{
	patch_opt option = {type, 0, value};
	OK(patch_configure(&option));
}

static void commit(const char *title, patch_err expected, uint64_t first)
{
	patch_result *results;
	size_t count;
	patch_err status = patch_commit(&results, &count);

	printf("%s: status %d, %zu results\n", title, (int)status, count);
	CHECK(status == expected);
	for (size_t i = 0; i < count; i++) {
		printf("  operation %d, %s: status %d, tactic %d\n", (int)(results[i].cookie - first),
		       results[i].function, (int)results[i].status, (int)results[i].tactic);
		CHECK((results[i].status == PATCH_OK) == !strcmp(results[i].reason, ""));
		CHECK((results[i].status == PATCH_OK) == (results[i].tactic != PATCH_TACTIC_NONE));
	}
	OK(patch_drop_results(results));
}

static void call(const char *what)
{
	hits = 0;
	good(1);
	tiny();
	printf("%s: %d hits\n", what, hits);
}

int main(void)
{
	OK(patch_init(NULL, 0));
	set(PATCH_OPT_TRAP_POLICY, PATCH_TRAP_FORBID);
	uint64_t first = queue("good");
	queue("tiny");
	queue("broken");
	commit("whole", PATCH_ERR_REFUSED, first);
	call("nothing was changed");

	first = queue("missing");
	queue("good");
	commit("whole, a name is unknown", PATCH_ERR_NO_SYMBOL, first);
	call("nothing was changed");

	set(PATCH_OPT_ATOMICITY, PATCH_ATOMICITY_BEST_EFFORT);
	first = queue("good");
	queue("tiny");
	queue("missing");
	queue("broken");
	commit("best effort", PATCH_OK, first);
	call("what could be is there");

	/* What failed has no cookie any more, what did not has. */
	patch_op remove = {.type = PATCH_OP_REMOVE, .cookie = first + 1};
	CHECK_IS(PATCH_ERR_COOKIE, patch_queue(0, &remove));
	remove.cookie = first;
	OK(patch_queue(0, &remove));
	commit("removal", PATCH_OK, first);
	call("removed");

	set(PATCH_OPT_TRAP_POLICY, PATCH_TRAP_FALLBACK);
	set(PATCH_OPT_RESULTS, PATCH_RESULTS_ALL);
	first = queue("tiny");
	commit("a trap", PATCH_OK, first);
	call("trapped");
	OK(patch_fini());
	call("removed");
	return 0;
}
