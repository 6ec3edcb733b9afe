// Four threads at once: no hit is lost.
//@ compile: gcc -O2 -pthread
//@ compile: gcc -O2 -pthread -static
//@ count: work -- 4 200000
//@ traps: no, they take too long
//@ expect-count: work 800000
//@ expect-stdout: 80000400000
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static int times;

__attribute__((noipa)) long work(long sum, int n) { return sum + n; }

static void *run(void *sum)
{
    for (int i = 1; i <= times; i++)
        *(long *)sum = work(*(long *)sum, i);
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[1]) : 1;
    times = argc > 2 ? atoi(argv[2]) : 1;
    pthread_t thread[64];
    long sum[64] = { 0 }, total = 0;
    for (int i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, run, &sum[i]);
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        total += sum[i];
    }
    printf("%ld\n", total);
    return 0;
}
