// A restartable sequence stays where the kernel looks for it; the instructions around it count.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: --points instruction bump critical -- 20000
//@ expect-count: bump 20000
//@ expect-refused: critical restartable
//@ expect-stdout: 20000
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/rseq.h>

static long counters[4096];

// bump(counters, rseq): 0 if the counter of this processor was incremented. (struct rseq: cpu_id at 4, rseq_cs at 8.)
int bump(long *counters, struct rseq *rseq);
__asm__(".text\n.globl bump, critical\n.type bump, @function\n.type critical, @function\n.p2align 4\n"
        "bump:   lea     3f(%rip), %rax\n"
        "        mov     %rax, 8(%rsi)\n"
        "critical:\n"
        "1:      mov     4(%rsi), %ecx\n"
        "        incq    (%rdi,%rcx,8)\n"
        "2:      movq    $0, 8(%rsi)\n"
        "        xor     %eax, %eax\n"
        "        ret\n"
        // The signature: ud1 with the number that glibc registers.
        "        .byte   0x0f, 0xb9, 0x3d\n"
        "        .long   0x53053053\n"
        "4:      mov     $1, %eax\n"
        "        ret\n"
        ".size bump, . - bump\n"
        ".pushsection __rseq_cs, \"aw\"\n.balign 32\n"
        "3:      .long   0, 0\n"
        "        .quad   1b, 2b - 1b, 4b\n"
        ".popsection\n");

int main(int argc, char **argv)
{
    struct rseq *rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    static struct rseq none;
    if (__rseq_size == 0)
        rseq = &none;
    long times = argc > 1 ? atol(argv[1]) : 1, sum = 0, again = 0;
    for (long i = 0; i < times; i++)
        again += bump(counters, rseq);
    for (int i = 0; i < 4096; i++)
        sum += counters[i];
    printf("%ld\n", sum + again);
    return 0;
}
