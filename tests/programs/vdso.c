// The kernel's own code in the process counts like any other.
//@ compile: gcc -O2
//@ count: [vdso]!clock_gettime -- 1000
//@ expect-count: clock_gettime >=1000
//@ expect-stdout: 1000 in order
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
    struct timespec before = { 0, 0 }, now;
    int times = argc > 1 ? atoi(argv[1]) : 1, in_order = 0;
    for (int i = 0; i < times; i++, before = now) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        in_order += now.tv_sec > before.tv_sec || (now.tv_sec == before.tv_sec && now.tv_nsec >= before.tv_nsec);
    }
    printf("%d in order\n", in_order);
    return 0;
}
