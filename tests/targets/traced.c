// Calls whose number, arguments and results are known, of several kinds: the first argument says which.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define NOIPA __attribute__((noipa))

/* Not made a loop of. */
NOIPA __attribute__((optimize("O1"))) long fibonacci(long n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

NOIPA long six(long a, long b, long c, long d, long e, long f) { return a + b + c + d + e + f; }

NOIPA long step(long n) { return n * 3; }

static jmp_buf back;

NOIPA void jumps(long n)
{
    if (n == 0)
        longjmp(back, 1);
    jumps(n - 1);
    step(-1);
}

NOIPA long catches(long n)
{
    if (setjmp(back) == 0)
        jumps(n);
    return step(n);
}

NOIPA long sleeps(long ms)
{
    usleep(ms * 1000);
    return ms;
}

NOIPA long outer(long ms) { return sleeps(ms) + sleeps(ms); }

static void *thread(void *from)
{
    for (long i = 0; i < 1000; i++)
        step((long)from + i);
    return NULL;
}

static ucontext_t here, there;
static long rounds;

static void coroutine(void)
{
    for (long i = 0; i < rounds; i++)
        step(i);
}

/* On a stack of two pages, with nothing behind them. */
static void on_small_stack(long n)
{
    char *stack = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(stack + 2 * 4096, 4096, PROT_NONE);
    rounds = n;
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = 2 * 4096;
    there.uc_link = &here;
    makecontext(&there, coroutine, 0);
    swapcontext(&here, &there);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    long n = argc > 2 ? atol(argv[2]) : 10;
    long result = 0;
    if (!strcmp(kind, "fibonacci")) {
        result = fibonacci(n);
    } else if (!strcmp(kind, "six")) {
        for (long i = 0; i < n; i++)
            result += six(i, -i, 1L << 40, i + 3, i + 4, i + 5);
    } else if (!strcmp(kind, "steps")) {
        for (long i = 0; i < n; i++)
            result += step(i);
    } else if (!strcmp(kind, "jumps")) {
        for (long i = 0; i < n; i++)
            result += catches(i % 5);
    } else if (!strcmp(kind, "outer")) {
        result = outer(n);
    } else if (!strcmp(kind, "threads")) {
        pthread_t threads[4];
        for (long i = 0; i < 4; i++)
            pthread_create(&threads[i], NULL, thread, (void *)(i * 1000));
        for (long i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
    } else if (!strcmp(kind, "forks")) {
        for (long i = 0; i < n; i++) {
            step(i);
            pid_t child = fork();
            if (child == 0) {
                step(100 + i);
                _exit(0);
            }
            waitpid(child, NULL, 0);
        }
    } else if (!strcmp(kind, "goes on")) {
        for (;;) {
            step(++result);
            usleep(1000);
        }
    } else if (!strcmp(kind, "coroutine")) {
        on_small_stack(n);
    } else if (!strcmp(kind, "killed")) {
        for (long i = 0; i < n; i++)
            step(i);
        kill(getpid(), SIGKILL);
    }
    printf("%ld\n", result);
    return 0;
}
