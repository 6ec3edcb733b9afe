/* A program with probes of its programmer, as <sys/sdt.h> makes them; written out, as that is not everywhere. */
#include <poll.h>
#include <stdio.h>

__extension__ unsigned short step_semaphore __attribute__((section(".probes"), used));

/* A nop, and a note that says where it is, which counter switches it, and where the arguments are. */
#define PROBE(name, semaphore, arguments, ...)                                                          \
    __asm__ volatile("990: nop\n"                                                                         \
                     ".pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n"                              \
                     ".4byte 992f-991f, 994f-993f, 3\n991: .asciz \"stapsdt\"\n992: .balign 4\n"          \
                     "993: .8byte 990b\n.8byte _.stapsdt.base\n.8byte " semaphore "\n"                    \
                     ".asciz \"noted\"\n.asciz \"" name "\"\n.asciz \"" arguments "\"\n994: .balign 4\n"  \
                     ".popsection\n"                                                                      \
                     ".ifndef _.stapsdt.base\n.pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"              \
                     ".weak _.stapsdt.base\n.hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n"           \
                     ".size _.stapsdt.base, 1\n.popsection\n.endif\n" ::__VA_ARGS__)

__attribute__((noinline)) int step(int by, const char *why, long *table) {
    /* Only prepared while somebody looks. */
    if (__builtin_expect(step_semaphore, 0))
        PROBE("step", "step_semaphore", "-4@%0 8@%1 8@%2", "nor"(by), "nor"(why), "o"(table[1]));
    PROBE("plain", "0", "-1@$-5 4@%0", "r"(by));
    return by + 1;
}

int main(int argc, char **argv) {
    long table[] = {1, 70, 3};
    int sum = 0;
    struct pollfd input = {0, POLLIN, 0};
    for (int i = 0; argc > 1 || i < 4; i++) {
        sum += step(i - 2, i & 1 ? "odd" : "even", table);
        /* With an argument, until its input ends. */
        if (argc > 1 && poll(&input, 1, 1) != 0)
            break;
    }
    printf("sum %d, watched %d\n", sum, step_semaphore);
    return 0;
}
