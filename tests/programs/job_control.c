// Stops and continues, and signals that were blocked or ignored before, are as without us.
//@ compile: gcc -O2
//@ count: work -- 5
//@ expect-count: work 5
//@ expect-stdout: stopped 5, continued 5
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) void work(void) {}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, stopped = 0, continued = 0;
    int go[2];
    char byte = 0;
    if (pipe(go) != 0)
        return 1;
    pid_t child = fork();
    if (child == 0)
        do
            raise(SIGSTOP);
        while (read(go[0], &byte, 1) == 1);
    for (int i = 0; i < times; i++) {
        int status;
        work();
        if (waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status))
            stopped++;
        kill(child, SIGCONT);
        if (waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status))
            continued++;
        if (write(go[1], &byte, 1) != 1)
            return 1;
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    printf("stopped %d, continued %d\n", stopped, continued);
    return 0;
}
