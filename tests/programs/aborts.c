// abort blocks all signals while it ends the program; the report is there all the same.
//@ compile: gcc -O2
//@ count: work -- 3
//@ expect-count: work 3
//@ expect-signal: 6
//@ expect-stdout: before
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        work(i);
    puts("before");
    fflush(stdout);
    abort();
}
