// Functions that are left by longjmp, and the place they come back to, which is inside a probed function.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: thrower catcher work -- 100
//@ expect-count: catcher 100
//@ expect-count: thrower 1100
//@ expect-count: work 100
//@ expect-stdout: 100
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static jmp_buf buffer;

__attribute__((noipa)) void thrower(int depth)
{
    volatile char room[64];
    room[depth] = 1;
    if (depth == 0)
        longjmp(buffer, 1);
    thrower(depth - 1);
    room[0] = room[depth];
}

__attribute__((noipa)) int work(void) { return 1; }

__attribute__((noipa)) int catcher(void)
{
    if (setjmp(buffer) == 0) {
        thrower(10);
        return 0;
    }
    return work();
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, sum = 0;
    for (int i = 0; i < times; i++)
        sum += catcher();
    printf("%d\n", sum);
    return 0;
}
