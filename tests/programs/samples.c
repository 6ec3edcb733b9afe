// A sampling handler sees the program's own code, stack and registers, at whatever instruction it interrupts.
//@ compile: gcc -O2
//@ unsteady: how often the timer comes differs
//@ count: leaf saver -- 4000000
//@ traps: no, they take too long
//@ expect-count: leaf 4000000
//@ expect-count: saver 4000000
#define _GNU_SOURCE
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <ucontext.h>

// Calls both functions `times` times with every register and the carry flag set to known values. Flags are live at both.
unsigned long run(unsigned long times);
extern char leaf[], leaf_end[], saver[], saver_end[];

__asm__(".text\n"
        ".globl run, leaf, leaf_end, saver, saver_end\n"
        ".type run, @function\n"
        ".type leaf, @function\n"
        ".type saver, @function\n"
        ".p2align 4\n"
        "leaf: lea 1(%rdi), %rax\n lea (%rax,%rcx), %rax\n ret\n"
        "leaf_end: .size leaf, . - leaf\n"
        ".p2align 4\n"
        "saver: mov %rax, %r9\n lea 1(%rax), %rax\n ret\n"
        "saver_end: .size saver, . - saver\n"
        ".p2align 4\n"
        "run: push %rbx\n push %r12\n"
        "mov %rsp, run_sp(%rip)\n"
        "mov %rdi, %rbx\n xor %r12d, %r12d\n"
        "mov $0x1111, %ecx\n mov $0x2222, %edx\n mov $0x3333, %esi\n mov $0x4444, %edi\n mov $0x5555, %r8d\n"
        "1: stc\n"
        "mov $0x7777, %eax\n"
        "call leaf\n jnc 2f\n"
        "mov $0x6666, %eax\n"
        "call saver\n jnc 2f\n"
        "inc %r12\n dec %rbx\n jnz 1b\n"
        "2: mov %r12, %rax\n pop %r12\n pop %rbx\n ret\n"
        ".size run, . - run\n"
        ".bss\n run_sp: .quad 0\n .globl run_sp\n .text\n");
extern unsigned long run_sp;

static volatile int samples, inside, wrong_place, wrong_stack, wrong_registers, wrong_flags;
static struct { unsigned long from, to; } code[64];
static int codes;

static int note_code(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size, (void)data;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && segment->p_flags & PF_X && codes < 64) {
            code[codes].from = info->dlpi_addr + segment->p_vaddr;
            code[codes++].to = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
        }
    }
    return 0;
}

static void on_sample(int signal, siginfo_t *info, void *more)
{
    (void)signal, (void)info;
    greg_t *r = ((ucontext_t *)more)->uc_mcontext.gregs;
    unsigned long ip = r[REG_RIP];
    int known = 0;
    samples++;
    for (int i = 0; i < codes; i++)
        known |= code[i].from <= ip && ip < code[i].to;
    wrong_place += !known;
    int in_leaf = (unsigned long)leaf <= ip && ip < (unsigned long)leaf_end;
    int in_saver = (unsigned long)saver <= ip && ip < (unsigned long)saver_end;
    if (!in_leaf && !in_saver)
        return;
    inside++;
    wrong_stack += (unsigned long)r[REG_RSP] != run_sp - 8;
    wrong_registers += r[REG_RCX] != 0x1111 || r[REG_RDX] != 0x2222 || r[REG_RSI] != 0x3333 ||
        r[REG_RDI] != 0x4444 || r[REG_R8] != 0x5555 || (ip == (unsigned long)saver && r[REG_RAX] != 0x6666);
    wrong_flags += !(r[REG_EFL] & 1);
}

int main(int argc, char **argv)
{
    unsigned long times = argc > 1 ? strtoul(argv[1], NULL, 0) : 1;
    dl_iterate_phdr(note_code, NULL);
    struct sigaction action = { .sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_RESTART };
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = { { 0, 100 }, { 0, 100 } };
    setitimer(ITIMER_REAL, &timer, NULL);
    unsigned long done = run(times);
    timer = (struct itimerval) { { 0, 0 }, { 0, 0 } };
    setitimer(ITIMER_REAL, &timer, NULL);
    printf("%d samples, %d inside\n", samples, inside);
    fprintf(stderr, "place %d stack %d registers %d flags %d done %d\n", wrong_place, wrong_stack,
        wrong_registers, wrong_flags, done == times);
    return samples == 0 || wrong_place || wrong_stack || wrong_registers || wrong_flags || done != times;
}
