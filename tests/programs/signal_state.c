// Masks, pending signals and dispositions are the program's own. (SIGILL and SIGTRAP are handled where a trap has
// to work even if the command is killed; what the program sets for them is its own again.)
//@ compile: gcc -O2
//@ count: work --
//@ expect-count: work 3
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>

__attribute__((noipa)) void work(void) {}

static void handler(int signal) { (void)signal; }

static void show(void)
{
    sigset_t mask, pending;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    sigpending(&pending);
    for (int i = 1; i < 32; i++) {
        struct sigaction action;
        if (i == SIGILL || i == SIGTRAP || sigaction(i, NULL, &action) != 0)
            continue;
        const char *what = action.sa_handler == SIG_DFL   ? "default"
                           : action.sa_handler == SIG_IGN ? "ignored"
                                                          : "handled";
        printf("%d: %s %x %d%d\n", i, what, (unsigned)action.sa_flags, sigismember(&mask, i),
               sigismember(&pending, i));
    }
}

int main(void)
{
    work();
    show();
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART }, found;
    for (int i = SIGILL; i <= SIGTRAP; i += SIGTRAP - SIGILL) {
        sigaction(i, &action, NULL);
        work();
        sigaction(i, NULL, &found);
        printf("%d: own %d %x\n", i, found.sa_handler == handler, (unsigned)found.sa_flags);
        action.sa_handler = SIG_IGN;
        sigaction(i, &action, NULL);
        sigaction(i, NULL, &found);
        printf("%d: ignored %d\n", i, found.sa_handler == SIG_IGN);
        action.sa_handler = handler;
    }
    return 0;
}
