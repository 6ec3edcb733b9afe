// The first thread ends before the others do.
//@ compile: gcc -O2 -pthread
//@ count: work -- 3
//@ expect-count: work 300
//@ expect-exit: 5
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int left;

__attribute__((noipa)) void work(void) { usleep(100); }

static void *run(void *unused)
{
    for (int i = 0; i < 100; i++)
        work();
    if (--left == 0)
        exit(5);
    return unused;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    left = threads;
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, run, NULL);
    }
    pthread_exit(NULL);
}
