// A child of vfork shares its parent's memory until it runs another program: its calls add to the same counters.
//@ compile: gcc -O2
//@ count: work -- 20
//@ expect-count: work 40
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 0; i < times; i++) {
        work(i);
        pid_t pid = vfork();
        if (pid == 0) {
            work(i);
            execl("/bin/true", "true", (char *)NULL);
            _exit(1);
        }
        int status;
        if (waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
    }
    puts("done");
    return 0;
}
