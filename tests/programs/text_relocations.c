// Code that the dynamic linker writes to when it loads the program: what it writes to is left alone, the rest counts.
//@ compile: gcc -O2 -fno-pic -mcmodel=large -pie -Wl,-z,notext -w
//@ count: --points instruction work+0..work+END plain+0..plain+END -- 1000
//@ expect-count: plain 1000
//@ expect-refused: work dynamic linker writes
//@ expect-stdout: 502000 1000
#include <stdio.h>
#include <stdlib.h>

static int table[4] = { 1, 2, 3, 4 };

__attribute__((noipa)) int work(int n) { return table[n & 3] + n; }
__attribute__((noipa)) int plain(int n) { return n + 1; }

int main(int argc, char **argv)
{
    long sum = 0;
    int times = argc > 1 ? atoi(argv[1]) : 1, n = 0;
    for (int i = 0; i < times; i++) {
        sum += work(i);
        n = plain(n);
    }
    printf("%ld %d\n", sum, n);
    return 0;
}
