// The program moves its own text onto anonymous memory, made of huge pages where there are some, while it is probed.
//@ compile: gcc -O2
//@ count: work other -- 1000
//@ expect-count: work 2000
//@ expect-count: other 2000
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE (2ul << 20)

extern char __executable_start[], __etext[];

__attribute__((noipa)) int work(int n) { return n + 1; }
__attribute__((noipa)) int other(int n) { return n - 1; }

static int run(int times)
{
    int sum = 0;
    for (int i = 0; i < times; i++)
        sum = other(work(sum)) + 1;
    return sum;
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    int sum = run(times);
    uintptr_t page = 4096, from = (uintptr_t)work & -page, to = ((uintptr_t)__etext + page - 1) & -page;
    size_t len = to - from;
    char *memory = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *copy = (char *)(((uintptr_t)memory + HUGE - 1) & -HUGE);
    madvise(copy, HUGE, MADV_HUGEPAGE);
    memcpy(copy, (void *)from, len);
    mprotect(copy, len, PROT_READ | PROT_EXEC);
    if (mremap(copy, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)from) != (void *)from)
        return 9;
    sum += run(times);
    printf("%d\n", sum);
    return 0;
}
