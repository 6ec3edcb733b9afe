// An indirect function counts at the implementation in use; functions are reached through pointers and tables.
//@ compile: gcc -O1
//@ compile: gcc -O1 -static
//@ count: chosen a b -- 30
//@ expect-count: chosen 30
//@ expect-count: a 15
//@ expect-count: b 15
#include <stdio.h>
#include <stdlib.h>

static int fast(int n) { return n + 1; }
static int slow(int n) { return n + 2; }
static int (*resolve(void))(int) { return sizeof(void *) == 8 ? fast : slow; }
int chosen(int n) __attribute__((ifunc("resolve")));

__attribute__((noipa)) int a(int n) { return n; }
__attribute__((noipa)) int b(int n) { return -n; }

int main(int argc, char **argv)
{
    int (*volatile table[])(int) = { a, b };
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum += chosen(i) + table[i % 2](i);
    printf("%d\n", sum);
    return 0;
}
