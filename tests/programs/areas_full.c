// More threads than there is memory for areas to count in: counts are exact all the same.
//@ compile: gcc -O2 -pthread
//@ traps: no, too many hits
//@ count: hit hot -- 300000
//@ expect-count: hit 18000000
//@ expect-count: hot 18000000
//@ expect-stdout: 60 threads
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

__attribute__((noipa)) void hit(void) { __asm__ volatile("movl $1, %%eax" ::: "eax", "memory"); }
__attribute__((noipa)) void hot(void) { __asm__ volatile("movl $2, %%ecx" ::: "ecx", "memory"); }

enum { THREADS = 60 };
static pthread_barrier_t all_there;
static long times = 1;

static void *run(void *unused)
{
    pthread_barrier_wait(&all_there);
    for (long i = 0; i < times; i++) {
        hit();
        hot();
    }
    return NULL;
}

// So that there is room for the threads and for new trampolines, but not for as many areas again.
static void limit(void)
{
    char line[256];
    unsigned long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "VmSize:", 7) == 0)
            kib = strtoul(line + 7, NULL, 10);
    fclose(status);
    struct rlimit limit = { (kib + 61440) * 1024, (kib + 61440) * 1024 };
    setrlimit(RLIMIT_AS, &limit);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    pthread_attr_t attributes;
    if (argc > 1)
        times = atol(argv[1]);
    pthread_barrier_init(&all_there, NULL, THREADS);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    limit();
    int made = 0;
    for (int i = 0; i < THREADS; i++)
        made += pthread_create(&threads[i], &attributes, run, NULL) == 0;
    for (int i = 0; i < made; i++)
        pthread_join(threads[i], NULL);
    printf("%d threads\n", made);
    return 0;
}
