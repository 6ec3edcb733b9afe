// Padding before the entry, with and without a two-byte instruction at it.
//@ compile: gcc -O2 -fpatchable-function-entry=7,5 -fcf-protection=none
//@ compile: gcc -O2 -fpatchable-function-entry=5,2 -fcf-protection=none
//@ compile: gcc -O2 -fpatchable-function-entry=5,2 -fcf-protection=branch
//@ count: work ready -- 40
//@ expect-count: work 40
//@ expect-count: ready 40
//@ expect-stdout: 40
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

/* mov edi,edi behind five bytes of padding, as Windows has it. */
__attribute__((noipa, ms_hook_prologue, ms_abi)) int ready(int n) { return n; }

int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum = ready(work(sum));
    printf("%d\n", sum);
    return 0;
}
