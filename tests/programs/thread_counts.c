// More threads at a time than there are areas to count in at first, and again when those have ended; children of fork and
// vfork that count beside their parent.
//@ compile: gcc -O2 -pthread
//@ compile: gcc -O2 -pthread -static
//@ compile: gcc -O2 -pthread -no-pie -fno-pie
//@ traps: no, too many hits
//@ count: hit hot -- 20000
//@ expect-count: hit 4004004
//@ expect-count: hot 4004003
//@ expect-stdout: 200 threads
//@ count: -f hit hot -- 20000
//@ expect-count: hit 4084004
//@ expect-count: hot 4084003
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) void hit(void) { __asm__ volatile("" ::: "memory"); }
__attribute__((noipa)) void hot(void) { __asm__ volatile("nop; nop; nop; nop; nop" ::: "memory"); }

static pthread_barrier_t all_there;

static void work(long times)
{
    for (long i = 0; i < times; i++) {
        hit();
        hot();
    }
}

static void *run(void *times)
{
    pthread_barrier_wait(&all_there);
    work((long)times);
    return NULL;
}

int main(int argc, char **argv)
{
    enum { THREADS = 100, ROUNDS = 2 };
    long times = argc > 1 ? atol(argv[1]) : 1;
    pthread_t threads[THREADS];
    pthread_barrier_init(&all_there, NULL, THREADS);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, run, (void *)times);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 4; i++) {
        if (fork() == 0) {
            work(times);
            _exit(0);
        }
        work(1000);
    }
    if (vfork() == 0) {
        hit();
        _exit(0);
    }
    work(3);
    while (wait(NULL) > 0)
        ;
    printf("%d threads\n", THREADS * ROUNDS);
    return 0;
}
