/*
 * Threads run functions while others install and remove probes and counters on them: every result is right, every
 * probe sees the right argument, and all bytes are as before at the end.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "check.h"

enum { RUNNERS = 3, CHANGERS = 2, FUNCTIONS = 3, CODE = 64 };

__attribute__((noinline, noclone)) uint64_t first(uint64_t x)
{
	__asm__ volatile("" : "+r"(x));
	return x * 3 + 1;
}

__attribute__((noinline, noclone)) uint64_t second(uint64_t x)
{
	uint64_t sum = 0;
	for (uint64_t i = 0; i < x % 7; i++) {
		__asm__ volatile("" : "+r"(sum));
		sum += x;
	}
	return sum;
}

__attribute__((noinline, noclone)) uint64_t third(uint64_t x)
{
	return first(x) ^ second(x);
}

static uint64_t (*const functions[])(uint64_t) = {first, second, third};
static const char *const names[] = {"first", "second", "third"};
static unsigned char before[FUNCTIONS][CODE];

static atomic_int stop;
static atomic_ulong probed, calls, rounds;

/* No argument has a bit above 31. */
static void probe(struct patch_probe_context *ctx)
{
	CHECK(ctx->gregs[PATCH_X86_64_RDI] >> 32 == 0);
	CHECK(ctx->user_data == &probed);
	atomic_fetch_add(&probed, 1);
}

static void *runner(void *seed)
{
	uint64_t x = (uintptr_t)seed;
	unsigned long done = 0;
	while (!atomic_load(&stop)) {
		x = (x * 1103515245 + 12345) & 0xffffffff;
		uint64_t sum = 0;
		for (uint64_t i = 0; i < x % 7; i++)
			sum += x;
		CHECK(first(x) == x * 3 + 1);
		CHECK(second(x) == sum);
		CHECK(third(x) == ((x * 3 + 1) ^ sum));
		done += 3;
	}
	atomic_fetch_add(&calls, done);
	return NULL;
}

/* Its queue is shared with the other changers: operations may be committed by either. */
static void *changer(void *unused)
{
	(void)unused;
	while (!atomic_load(&stop)) {
		patch_op ops[2 * FUNCTIONS];
		for (int i = 0; i < 2 * FUNCTIONS; i++) {
			ops[i] = (patch_op){.type = i % 2 ? PATCH_OP_COUNT : PATCH_OP_INSTALL,
					    .addr.func_sym = names[i / 2],
					    .probe = i % 2 ? NULL : probe,
					    .user_data = &probed};
			OK(patch_queue(PATCH_FENTRY, &ops[i]));
		}
		OK(patch_commit(NULL, NULL));
		for (int i = 0; i < 2 * FUNCTIONS; i++) {
			ops[i].type = PATCH_OP_REMOVE;
			/* The other's commit may not have come to it yet. */
			while (patch_queue(0, &ops[i]) != PATCH_OK)
				OK(patch_commit(NULL, NULL));
		}
		OK(patch_commit(NULL, NULL));
		atomic_fetch_add(&rounds, 1);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[RUNNERS + CHANGERS];
	int seconds = getenv("INCISE_LONG") ? 30 : 3;

	for (int i = 0; i < FUNCTIONS; i++)
		memcpy(before[i], (void *)functions[i], CODE);
	OK(patch_init(NULL, 0));
	for (int i = 0; i < RUNNERS + CHANGERS; i++)
		CHECK(!pthread_create(&threads[i], NULL, i < RUNNERS ? runner : changer, (void *)(uintptr_t)(i + 1)));
	nanosleep(&(struct timespec){.tv_sec = seconds}, NULL);
	atomic_store(&stop, 1);
	for (int i = 0; i < RUNNERS + CHANGERS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	OK(patch_fini());
	for (int i = 0; i < FUNCTIONS; i++)
		CHECK(!memcmp(before[i], (void *)functions[i], CODE));
	CHECK(atomic_load(&rounds) > 20 && atomic_load(&probed) > 100 && atomic_load(&calls) > 1000);
	printf("ok\n");
	return 0;
}
