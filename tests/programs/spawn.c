// posix_spawn and system() make children by vfork-like clones; their output comes through.
//@ compile: gcc -O2
//@ count: work posix_spawn system -- 10
//@ expect-count: work 10
//@ count: -f work echo -- 10
//@ expect-count: work 10
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

__attribute__((noipa)) int work(int n) { return n + 1; }

/* For the pattern of the second run, which has to match something. */
__attribute__((noipa, used)) void echo(void) {}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 0; i < times; i++) {
        work(i);
        fflush(stdout);
        if (i % 2) {
            if (system("echo shell; exit 3") != 3 << 8)
                return 1;
        } else {
            char *arguments[] = { "echo", "spawned", NULL };
            pid_t pid;
            int status;
            if (posix_spawnp(&pid, "echo", NULL, NULL, arguments, environ) != 0)
                return 2;
            if (waitpid(pid, &status, 0) != pid || status != 0)
                return 3;
        }
    }
    return 0;
}
