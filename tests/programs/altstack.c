// A handler on its own small stack, also for a fault whose address and context it looks at.
//@ compile: gcc -O2
//@ count: work on_fault -- 50
//@ expect-count: work 50
//@ expect-count: on_fault 50
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

static sigjmp_buf back;
static char stack[16384];
static int wrong;

__attribute__((noipa)) int work(volatile int *place) { return *place; }

__attribute__((noipa)) void on_fault(int signal, siginfo_t *info, void *context)
{
    char here;
    (void)signal;
    (void)context;
    wrong += info->si_addr != (void *)64 || &here < stack || &here > stack + sizeof stack;
    siglongjmp(back, 1);
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    stack_t alternative = { .ss_sp = stack, .ss_size = sizeof stack };
    sigaltstack(&alternative, NULL);
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigaction(SIGSEGV, &action, NULL);
    for (int i = 0; i < times; i++)
        if (sigsetjmp(back, 1) == 0)
            work((volatile int *)64);
    printf("%d wrong\n", wrong);
    return wrong;
}
