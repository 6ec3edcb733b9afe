// Another thread than the first one runs a program: the process keeps its id, all other threads end.
//@ compile: gcc -O2 -pthread
//@ count: work -- first
//@ expect-count: work 7
//@ expect-stdout: second
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__attribute__((noipa)) void work(int n) { (void)n; }

static void *run(void *name)
{
    for (int i = 0; i < 3; i++)
        work(i);
    execl("/proc/self/exe", name, "second", (char *)NULL);
    return NULL;
}

static void *wait_for_ever(void *unused)
{
    pause();
    return unused;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "first") != 0) {
        for (int i = 0; i < 4; i++)
            work(i);
        puts(argv[1]);
        return 0;
    }
    pthread_t thread;
    for (int i = 0; i < 3; i++)
        pthread_create(&thread, NULL, wait_for_ever, NULL);
    pthread_create(&thread, NULL, run, argv[0]);
    pthread_join(thread, NULL);
    return 1;
}
