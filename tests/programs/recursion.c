// Every call of a recursive function counts.
//@ compile: gcc -O1 -fno-optimize-sibling-calls
//@ compile: gcc -O1 -fcf-protection
//@ count: fibonacci even odd -- 20
//@ expect-count: fibonacci 21891
//@ expect-count: even 501
//@ expect-count: odd 500
//@ expect-stdout: 6765 1
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

int odd(int n);

/* Tail calls between two functions: jumps, where the compiler makes them. */
__attribute__((noipa)) int even(int n) { return n == 0 ? 1 : odd(n - 1); }

__attribute__((noipa)) int odd(int n) { return n == 0 ? 0 : even(n - 1); }

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 1;
    int result = fibonacci(n);
    printf("%d %d\n", result, even(1000));
    return 0;
}
