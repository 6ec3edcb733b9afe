// Handlers of faults see the original instruction and registers, repeat it or skip it; what is repeated counts once.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: load quotient illegal -- 50
//@ expect-count: load 100
//@ expect-count: quotient 50
//@ expect-count: illegal 50
//@ expect-stdout: loads: 100 faults at 0, 50 of them repeated
//@ expect-stdout: divisions: 50 faults at 3
//@ expect-stdout: illegal instructions: 50 at 0
//@ expect-stdout: elsewhere: 0
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

int load(const int *from);
int quotient(int dividend, int divisor);
int illegal(int value);

__asm__(".text\n"
        ".globl load, quotient, illegal\n"
        ".type load, @function\n"
        ".type quotient, @function\n"
        ".type illegal, @function\n"
        ".p2align 4\n"
        "load: mov (%rdi), %eax\n ret\n .size load, . - load\n"
        ".p2align 4\n"
        "quotient: mov %edi, %eax\n cltd\n idivl %esi\n ret\n .size quotient, . - quotient\n"
        ".p2align 4\n"
        "illegal: ud2\n lea 1(%rdi), %eax\n ret\n .size illegal, . - illegal\n");

static int *page;
static volatile int loads, repeated, divisions, illegals, elsewhere;

static long offset(ucontext_t *context, void *function)
{
    return context->uc_mcontext.gregs[REG_RIP] - (long)function;
}

static void on_fault(int signal, siginfo_t *info, void *more)
{
    ucontext_t *context = more;
    greg_t *registers = context->uc_mcontext.gregs;
    switch (signal) {
    case SIGSEGV:
        if (offset(context, load) != 0 || info->si_addr != page || registers[REG_RDI] != (long)page) {
            elsewhere++;
        }
        loads++;
        if (loads % 2) {
            mprotect(page, 4096, PROT_READ);
            repeated++;
        } else {
            registers[REG_RIP] += 2;
            registers[REG_RAX] = 7;
        }
        break;
    case SIGFPE:
        if (offset(context, quotient) != 3 || registers[REG_RSI] != 0)
            elsewhere++;
        divisions++;
        registers[REG_RSI] = 2;
        break;
    case SIGILL:
        if (offset(context, illegal) != 0)
            elsewhere++;
        illegals++;
        registers[REG_RIP] += 2;
        break;
    }
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, wrong = 0;
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    for (int i = 0; i < times; i++) {
        mprotect(page, 4096, PROT_NONE);
        wrong += load(page) != 0;
        mprotect(page, 4096, PROT_NONE);
        wrong += load(page) != 7;
        wrong += quotient(i, 0) != i / 2;
        wrong += illegal(i) != i + 1;
    }
    printf("loads: %d faults at 0, %d of them repeated\n", loads, repeated);
    printf("divisions: %d faults at 3\n", divisions);
    printf("illegal instructions: %d at 0\n", illegals);
    printf("elsewhere: %d\n", elsewhere);
    return wrong != 0 || elsewhere != 0;
}
