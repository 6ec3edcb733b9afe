// Calls of a function are counted exactly, whatever the program is linked as.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ compile: gcc -O2 -static-pie
//@ compile: gcc -O2 -no-pie -fno-pie
//@ compile: gcc -O0 -g
//@ compile: gcc -O2 -fcf-protection=full
//@ compile: gcc -Os -fomit-frame-pointer -falign-functions=1
//@ compile: gcc -O2 -Wl,-z,now -Wl,-z,separate-code -s -rdynamic
//@ compile: gcc -O2 -fPIE -pie -Wl,--gc-sections -ffunction-sections -Wl,-z,noseparate-code
//@ count: work leaf -- 1000
//@ expect-count: work 1000
//@ expect-count: leaf 3000
//@ expect-stdout: 1000 calls, sum 1501500
//@ expect-exit: 7
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int leaf(int n) { return n; }

__attribute__((noipa)) long work(long sum, int n) { return sum + leaf(n) + leaf(n) + leaf(n); }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    long sum = 0;
    for (int i = 1; i <= times; i++)
        sum = work(sum, i);
    printf("%d calls, sum %ld\n", times, sum);
    return 7;
}
