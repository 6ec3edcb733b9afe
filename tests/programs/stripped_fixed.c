// A program that is not position-independent has its addresses at run time.
//@ compile: gcc -O2 -no-pie -fno-pie
//@ compile: gcc -O2 -static
//@ strip
//@ count: main -- 12
//@ expect-count: main 1
//@ count: *{link:work} -- 12
//@ expect-count: sub_{hex:work} 12
//@ count: stripped_fixed!*{link:work} -- 12
//@ expect-count: sub_{hex:work} 12
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n * 3 + 1; }

int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum += work(i);
    printf("%d\n", sum);
    return 0;
}
