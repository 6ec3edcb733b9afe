// The program's own breakpoints reach its own handler, with what the kernel says about them.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ traps: no, the handler of SIGTRAP is probed and runs with SIGTRAP blocked
//@ count: work on_trap -- 100
//@ expect-count: work 200
//@ expect-count: on_trap 100
//@ expect-stdout: 100 traps, 0 wrong
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

static volatile int traps, wrong;
extern char behind_trap[];

__attribute__((noipa)) int work(int n) { return n + 1; }

__attribute__((noipa)) void on_trap(int signal, siginfo_t *info, void *context)
{
    ucontext_t *state = context;
    traps++;
    wrong += signal != SIGTRAP || info->si_code != SI_KERNEL;
    wrong += state->uc_mcontext.gregs[REG_RIP] != (long)behind_trap;
    work(traps);
}

__attribute__((noipa)) void trap(void) { __asm__ volatile("int3; .globl behind_trap; behind_trap: nop"); }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO }, old;
    sigaction(SIGTRAP, &action, NULL);
    sigaction(SIGTRAP, NULL, &old);
    wrong += old.sa_sigaction != on_trap;
    for (int i = 0; i < times; i++) {
        work(i);
        trap();
    }
    printf("%d traps, %d wrong\n", traps, wrong);
    return 0;
}
