/*
 * Every way to change code, with every trap policy: probes work, no page is writable and executable, and all bytes
 * are as before when they are removed. With the argument `mdwe` under PR_SET_MDWE, where the kernel itself refuses
 * such pages.
 */
#include <string.h>
#include <sys/prctl.h>

#include "check.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

enum { CODE = 64 };

__attribute__((noinline, noclone, aligned(64))) int work(int x)
{
	__asm__ volatile("" : "+r"(x));
	return 7 * x + 1;
}

/* Volatile: the compiler sees no call of the probe. */
static volatile int hits;

static void probe(struct patch_probe_context *ctx)
{
	hits += (int)ctx->gregs[PATCH_X86_64_RDI];
}

static void no_page_is_writable_and_executable(void)
{
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	CHECK(maps);
	while (fgets(line, sizeof line, maps)) {
		char permissions[5] = "";
		CHECK(sscanf(line, "%*s %4s", permissions) == 1);
		CHECK(!(permissions[1] == 'w' && permissions[2] == 'x'));
	}
	fclose(maps);
}

static void round_of(uint64_t wx_mode, uint64_t traps)
{
	unsigned char before[CODE];
	patch_opt options[] = {
	    {PATCH_OPT_WX_MODE, 0, wx_mode},
	    {PATCH_OPT_TRAP_POLICY, 0, traps},
	    {PATCH_OPT_RESULTS, 0, PATCH_RESULTS_ALL},
	};
	patch_op op = {.type = PATCH_OP_INSTALL, .addr.func_sym = "work", .probe = probe};
	patch_result *results;
	size_t count;

	memcpy(before, (void *)work, CODE);
	OK(patch_init(options, 3));
	OK(patch_queue(PATCH_FENTRY, &op));
	OK(patch_commit(&results, &count));
	CHECK(count == 1);
	CHECK((results->tactic == PATCH_TACTIC_TRAP) == (traps == PATCH_TRAP_FORCE));
	OK(patch_drop_results(results));
	CHECK(memcmp(before, (void *)work, CODE));
	hits = 0;
	CHECK(work(5) == 36 && work(6) == 43 && hits == 11);
	no_page_is_writable_and_executable();
	/* One is removed by hand, one by patch_fini(). */
	op.type = PATCH_OP_REMOVE;
	OK(patch_queue(0, &op));
	OK(patch_commit(NULL, NULL));
	CHECK(!memcmp(before, (void *)work, CODE));
	op = (patch_op){.type = PATCH_OP_COUNT, .addr.addr = (uintptr_t)work};
	OK(patch_queue(PATCH_INSN, &op));
	OK(patch_commit(NULL, NULL));
	CHECK(work(5) == 36 && hits == 11);
	OK(patch_fini());
	CHECK(!memcmp(before, (void *)work, CODE));
	CHECK(work(5) == 36 && hits == 11);
	no_page_is_writable_and_executable();
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "mdwe") && prctl(PR_SET_MDWE, 1, 0, 0, 0)) {
		/* The kernel is older than 6.3: nothing to see. */
		printf("ok\n");
		return 0;
	}
	for (int again = 0; again < 3; again++)
		for (uint64_t wx_mode = PATCH_WX_AUTO; wx_mode <= PATCH_WX_MEMFD; wx_mode++)
			for (uint64_t traps = PATCH_TRAP_FALLBACK; traps <= PATCH_TRAP_FORCE; traps++)
				round_of(wx_mode, traps);
	printf("ok\n");
	return 0;
}
