// The way back from signal handlers, all of whose instructions count; what it is known by is its bytes and its place.
//@ compile: gcc -O2 -static
//@ count: --points instruction __restore_rt -- 100
//@ expect-count: __restore_rt 100
//@ count: __restore_rt work -- 100
//@ expect-count: __restore_rt 100
//@ expect-count: work 100
//@ expect-stdout: 100 100
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile int handled;

__attribute__((noipa)) int work(int n) { return n + 1; }

static void on_signal(int signal)
{
    (void)signal;
    handled++;
}

int main(int argc, char **argv)
{
    int sum = 0;
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
        raise(SIGUSR1);
        sum = work(sum);
    }
    printf("%d %d\n", sum, handled);
    return 0;
}
