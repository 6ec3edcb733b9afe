// What the compiler makes of tiny functions when it may not align them.
//@ compile: gcc -O2 -falign-functions=1 -fcf-protection=none
//@ compile: gcc -Os -fcf-protection=none
//@ compile: gcc -Os -fcf-protection=branch
//@ count: zero one same twice stop -- 500
//@ expect-count: zero 500
//@ expect-count: one 500
//@ expect-count: same 500
//@ expect-count: twice 500
//@ expect-count: stop 500
//@ expect-stdout: 1500
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) void stop(void) {}
__attribute__((noipa)) int zero(void) { return 0; }
__attribute__((noipa)) int one(void) { return 1; }
__attribute__((noipa)) int same(int n) { return n; }
__attribute__((noipa)) int twice(int n) { return n + n; }

int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
        stop();
        sum += zero() + same(1) + twice(one());
    }
    printf("%d\n", sum);
    return 0;
}
