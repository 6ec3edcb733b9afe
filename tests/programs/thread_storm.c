// Threads come and go while probed code runs, also under traps: pthread_create blocks all signals meanwhile.
//@ compile: gcc -O2 -pthread
//@ count: work -- 300
//@ expect-count: work 3000
//@ expect-stdout: 3000
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static atomic_int done;

__attribute__((noipa)) void work(void) { done++; }

static void *run(void *unused)
{
    for (int i = 0; i < 10; i++)
        work();
    return unused;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 0; i < rounds / 3; i++) {
        pthread_t thread[3];
        for (int j = 0; j < 3; j++)
            pthread_create(&thread[j], NULL, run, NULL);
        for (int j = 0; j < 3; j++)
            pthread_join(thread[j], NULL);
    }
    printf("%d\n", done);
    return 0;
}
