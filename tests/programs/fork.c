// Without -f the parent's calls count, with -f those of its children too.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: work -- 5
//@ expect-count: work 10
//@ count: -f work -- 5
//@ expect-count: work 35
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int children = argc > 1 ? atoi(argv[1]) : 1, sum = 0;
    for (int i = 0; i < children; i++) {
        work(i);
        pid_t pid = fork();
        if (pid == 0) {
            int code = 0;
            for (int j = 0; j < 5; j++)
                code = work(code);
            _exit(code);
        }
        int status;
        waitpid(pid, &status, 0);
        sum += WEXITSTATUS(status);
        work(i);
    }
    printf("%d\n", sum);
    return 0;
}
