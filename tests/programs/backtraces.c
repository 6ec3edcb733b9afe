// A backtrace taken inside probed functions is the one without probes.
//@ compile: gcc -O2 -rdynamic -fno-optimize-sibling-calls
//@ compile: gcc -O0 -rdynamic
//@ count: outer middle inner -- 3
//@ expect-count: outer 3
//@ expect-count: middle 3
//@ expect-count: inner 3
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noipa)) int inner(void)
{
    void *frames[32];
    int count = backtrace(frames, 32);
    char **names = backtrace_symbols(frames, count);
    for (int i = 0; i < count; i++) {
        char *from = strchr(names[i], '('), *to = strchr(names[i], ')');
        if (from != NULL && to != NULL)
            printf("%.*s\n", (int)(to - from), from + 1);
    }
    free(names);
    return count;
}

__attribute__((noipa)) int middle(int n) { return inner() + n; }

__attribute__((noipa)) int outer(int n) { return middle(n) + n; }

int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum += outer(i);
    return sum < 0;
}
