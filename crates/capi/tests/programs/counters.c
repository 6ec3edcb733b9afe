/* Counters are exact under threads, can rest and run again, and are readable when they are removed. */
#include <pthread.h>

#include "check.h"

enum { THREADS = 4, CALLS = 200000 };

__attribute__((noinline, noclone)) int step(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

static void *run(void *unused)
{
	int x = 0;
	(void)unused;
	for (int i = 0; i < CALLS; i++)
		x = step(x);
	CHECK(x == CALLS);
	return NULL;
}

static void run_all(void)
{
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, run, NULL));
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

static void change(patch_op_type type, uint64_t cookie)
{
	patch_op op = {.type = type, .cookie = cookie};
	OK(patch_queue(0, &op));
	OK(patch_commit(NULL, NULL));
}

static volatile int order[3], ran;

static void note(struct patch_probe_context *ctx)
{
	order[ran++] = (int)(intptr_t)ctx->user_data;
}

int main(void)
{
	patch_op op = {.type = PATCH_OP_COUNT, .addr.func_sym = "step"};
	uint64_t hits;

	OK(patch_init(NULL, 0));
	OK(patch_queue(PATCH_FENTRY, &op));
	CHECK_IS(PATCH_ERR_COOKIE, patch_read_count(op.cookie, &hits));
	OK(patch_commit(NULL, NULL));
	OK(patch_read_count(op.cookie, &hits));
	CHECK(hits == 0);
	run_all();
	OK(patch_read_count(op.cookie, &hits));
	printf("counted %llu\n", (unsigned long long)hits);

	change(PATCH_OP_DISABLE, op.cookie);
	run_all();
	OK(patch_read_count(op.cookie, &hits));
	printf("at rest %llu\n", (unsigned long long)hits);

	change(PATCH_OP_ENABLE, op.cookie);
	run_all();
	change(PATCH_OP_REMOVE, op.cookie);
	run_all();
	OK(patch_read_count(op.cookie, &hits));
	printf("removed %llu\n", (unsigned long long)hits);

	/* Probes at one point run in the order they were queued, PATCH_FIRST before all. */
	for (intptr_t i = 1; i <= 3; i++) {
		patch_op probe = {.type = PATCH_OP_INSTALL, .addr.func_sym = "step", .probe = note};
		probe.user_data = (void *)i;
		OK(patch_queue(PATCH_FENTRY | (i == 3 ? PATCH_FIRST : 0), &probe));
	}
	OK(patch_commit(NULL, NULL));
	step(0);
	printf("order %d %d %d\n", order[0], order[1], order[2]);
	OK(patch_fini());
	CHECK_IS(PATCH_ERR_NOT_INIT, patch_read_count(op.cookie, &hits));
	OK(patch_init(NULL, 0));
	CHECK_IS(PATCH_ERR_COOKIE, patch_read_count(op.cookie, &hits));
	OK(patch_fini());
	return 0;
}
