// Children that are killed at any time while they fork, execute or get their probes: the others are counted on.
//@ compile: gcc -O2
//@ traps: no, too many hits
//@ count: -f work -- 60
//@ expect-count: work >=60
//@ expect-stdout: 60
//@ count: work -- 60
//@ expect-count: work 60
//@ expect-stdout: 60
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, sum = 0;
    while (argc > 2)
        sum = work(sum) & 1023;
    for (int i = 0; i < times; i++) {
        sum = work(sum);
        pid_t child = fork();
        if (child == 0) {
            execl("/proc/self/exe", argv[0], "1", "child", (char *)NULL);
            _exit(1);
        }
        usleep(i * 600 % 30000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    printf("%d\n", sum);
    return 0;
}
