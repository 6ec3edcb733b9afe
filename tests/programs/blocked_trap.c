// A thread runs probed code with SIGTRAP blocked.
//@ compile: gcc -O2 -pthread
//@ count: work -- 500
//@ expect-count: work 500
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

static void *run(void *times)
{
    sigset_t trap;
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    pthread_sigmask(SIG_BLOCK, &trap, NULL);
    long sum = 0;
    for (int i = 0; i < *(int *)times; i++)
        sum = work(sum);
    return (void *)sum;
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t thread;
    pthread_create(&thread, NULL, run, &times);
    void *sum;
    pthread_join(thread, &sum);
    printf("%ld\n", (long)sum);
    return 0;
}
