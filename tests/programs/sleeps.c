// Time limits of system calls are kept: nothing is interrupted by us, or it goes on where it was.
//@ compile: gcc -O2 -pthread
//@ count: work nanosleep poll -- 20
//@ expect-count: work 20
//@ expect-stdout: 0 interrupted, long enough: 1
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__attribute__((noipa)) void work(void) {}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, interrupted = 0;
    struct timespec begin, end, nap = { 0, 2000000 };
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < times; i++) {
        work();
        interrupted += nanosleep(&nap, NULL) != 0;
        interrupted += poll(NULL, 0, 2) != 0;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double spent = end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("%d interrupted, long enough: %d\n", interrupted, spent >= times * 0.004);
    return 0;
}
