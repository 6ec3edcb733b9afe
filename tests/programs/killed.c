// A program that kills itself outright.
//@ compile: gcc -O2
//@ count: work -- 9
//@ expect-count: work 9
//@ expect-signal: 9
//@ count: work -- 15
//@ expect-count: work 15
//@ expect-signal: 15
#include <signal.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int number = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 0; i < number; i++)
        work(i);
    raise(number);
    return 0;
}
