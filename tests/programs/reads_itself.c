// A program that reads its own code sees the patches, and that is all: constants between its instructions and the code it
// does not count are what they were.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: --points instruction work+0..work+END -- 1000
//@ expect-count: work 1000
//@ unsteady: it tells whether its code was changed
//@ expect-stdout: 3000 changed 0 0
#include <stdio.h>
#include <stdlib.h>

// A constant lies between its instructions, where a function reads it.
int work(int n);
int other(int n);
__asm__(".text\n.globl work, other, constant, work_end, other_end\n"
        ".type work, @function\n.type other, @function\n.p2align 4\n"
        "work:   add     constant(%rip), %edi\n"
        "        jmp     1f\n"
        "constant:\n"
        "        .long   3\n"
        "1:      mov     %edi, %eax\n"
        "        ret\n"
        "work_end:\n.size work, . - work\n.p2align 4\n"
        "other:  lea     1(%rdi), %eax\n"
        "        ret\n"
        "other_end:\n.size other, . - other\n");
extern const unsigned char constant[], work_end[], other_end[];

static unsigned sum(const unsigned char *from, const unsigned char *to)
{
    unsigned sum = 0;
    while (from < to)
        sum = sum * 31 + *from++;
    return sum;
}

int main(int argc, char **argv)
{
    static const unsigned char expected[] = { 0x03, 0x3d, 2, 0, 0, 0, 0xeb, 4, 3, 0, 0, 0, 0x89, 0xf8, 0xc3 };
    static const unsigned char expected_other[] = { 0x8d, 0x47, 1, 0xc3 };
    int times = argc > 1 ? atoi(argv[1]) : 1, total = 0;
    for (int i = 0; i < times; i++)
        total += work(0);
    int changed = sum((void *)work, work_end) != sum(expected, expected + sizeof expected);
    int changed_other = sum((void *)other, other_end) != sum(expected_other, expected_other + 4);
    printf("%d %s %d %d\n", total, changed ? "changed" : "as it was", changed_other, *(int *)constant != 3);
    return 0;
}
