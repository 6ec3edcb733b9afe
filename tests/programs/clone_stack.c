// A bare clone with a stack of its own, sharing memory but not the thread group.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: work -- 6
//@ expect-count: work 66
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

static int total;

__attribute__((noipa)) void work(int n) { total += n; }

static int run(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10; i++)
        work(1);
    return 0;
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    static char stack[65536] __attribute__((aligned(16)));
    for (int i = 0; i < times; i++) {
        int pid = clone(run, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, NULL);
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
        work(0);
    }
    printf("%d\n", total);
    return 0;
}
