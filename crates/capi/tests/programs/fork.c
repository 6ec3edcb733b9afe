/* A forked child has the probes, can change its own, and finds the library unlocked. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

__attribute__((noinline, noclone)) int work(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

__attribute__((noinline, noclone)) int other(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 2;
}

/* Volatile: the compiler sees no call of the probe. */
static volatile int hits;
static atomic_int stop;

static void probe(struct patch_probe_context *ctx)
{
	(void)ctx;
	hits++;
}

/* Keeps the library busy, so that forks happen in the middle of commits. */
static void *busy(void *unused)
{
	(void)unused;
	while (!atomic_load(&stop)) {
		patch_op op = {.type = PATCH_OP_COUNT, .addr.func_sym = "other"};
		OK(patch_queue(PATCH_FENTRY, &op));
		OK(patch_commit(NULL, NULL));
		op.type = PATCH_OP_REMOVE;
		OK(patch_queue(0, &op));
		OK(patch_commit(NULL, NULL));
	}
	return NULL;
}

static void child(uint64_t cookie)
{
	hits = 0;
	CHECK(work(1) == 2 && hits == 1);
	patch_op remove = {.type = PATCH_OP_REMOVE, .cookie = cookie};
	OK(patch_queue(0, &remove));
	OK(patch_commit(NULL, NULL));
	CHECK(work(1) == 2 && hits == 1);
	OK(patch_fini());
	OK(patch_init(NULL, 0));
	patch_op again = {.type = PATCH_OP_INSTALL, .addr.func_sym = "work", .probe = probe};
	OK(patch_queue(PATCH_FENTRY, &again));
	OK(patch_commit(NULL, NULL));
	CHECK(work(1) == 2 && hits == 2);
	_exit(42);
}

int main(void)
{
	pthread_t thread;
	patch_op op = {.type = PATCH_OP_INSTALL, .addr.func_sym = "work", .probe = probe};

	OK(patch_init(NULL, 0));
	OK(patch_queue(PATCH_FENTRY, &op));
	OK(patch_commit(NULL, NULL));
	CHECK(!pthread_create(&thread, NULL, busy, NULL));
	for (int i = 0; i < 100; i++) {
		int status;
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0)
			child(op.cookie);
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	}
	hits = 0;
	CHECK(work(1) == 2 && hits == 1);
	atomic_store(&stop, 1);
	CHECK(!pthread_join(thread, NULL));
	OK(patch_fini());
	CHECK(work(1) == 2 && hits == 1);
	printf("ok\n");
	return 0;
}
