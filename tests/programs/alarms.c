// A fast timer interrupts probed code at any instruction, in trampolines too; children end all the time.
//@ compile: gcc -O2
//@ unsteady: how often the timer comes differs
//@ count: work tiny -- 3000000
//@ traps: no, they take too long
//@ expect-count: work 3000000
//@ expect-count: tiny >=3000000
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int alarms, children;

__attribute__((noipa)) int tiny(int n) { return n; }

__attribute__((noipa)) unsigned work(unsigned sum, int n) { return sum * 31 + tiny(n); }

static void on_alarm(int signal)
{
    (void)signal;
    alarms = tiny(alarms) + 1;
}

static void on_child(int signal)
{
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        children = tiny(children) + 1;
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    signal(SIGALRM, on_alarm);
    signal(SIGCHLD, on_child);
    struct itimerval timer = { { 0, 200 }, { 0, 200 } };
    setitimer(ITIMER_REAL, &timer, NULL);
    unsigned sum = 0, expected = 0;
    for (int i = 0; i < times; i++) {
        sum = work(sum, i);
        expected = expected * 31 + i;
        if (i % 300000 == 0 && fork() == 0)
            _exit(0);
    }
    timer = (struct itimerval) { { 0, 0 }, { 0, 0 } };
    setitimer(ITIMER_REAL, &timer, NULL);
    fprintf(stdout, "%d alarms\n", alarms);
    return sum != expected || alarms == 0;
}
