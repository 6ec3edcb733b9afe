// Signal handlers are probed, and interrupt probed code.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: on_signal work -- 2000
//@ expect-count: on_signal 2000
//@ expect-count: work 4000
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile int seen;

__attribute__((noipa)) int work(int n) { return n + 1; }

__attribute__((noipa)) void on_signal(int signal)
{
    (void)signal;
    seen = work(seen);
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < times; i++) {
        raise(SIGUSR1);
        work(i);
    }
    printf("%d\n", seen);
    return seen != times;
}
