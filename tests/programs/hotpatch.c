// Padding made for patching is used, and displaces nothing.
//@ compile: gcc -O2 -fpatchable-function-entry=5 -fcf-protection=none
//@ compile: gcc -O2 -fpatchable-function-entry=5 -fcf-protection=branch
//@ compile: gcc -O2 -fpatchable-function-entry=16
//@ compile: gcc -O2 -no-pie -fno-pie -pg -mfentry -mnop-mcount
//@ count: work -- 40
//@ expect-count: work 40
//@ expect-tactic: work nop
//@ expect-stdout: 40
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum = work(sum);
    printf("%d\n", sum);
    return 0;
}
