// The program gives a probed function other code, as a patcher of its own would, and forks.
//@ compile: gcc -O2
//@ count: work other -- 1000
//@ expect-count: work 1000
//@ expect-count: other 2000
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa, aligned(4096))) int work(int n) { return n + 1; }
__attribute__((noipa, aligned(4096))) int other(int n) { return n - 1; }

static int run(int times)
{
    int sum = 0;
    for (int i = 0; i < times; i++)
        sum = other(work(sum)) + 1;
    return sum;
}

int main(int argc, char **argv)
{
    static const unsigned char adds_three[] = { 0x8d, 0x47, 0x03, 0xc3, 0x90, 0x90, 0x90 };
    int times = argc > 1 ? atoi(argv[1]) : 1;
    printf("%d\n", run(times));
    if (mprotect((void *)work, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        return 9;
    memcpy((void *)work, adds_three, sizeof adds_three);
    mprotect((void *)work, 4096, PROT_READ | PROT_EXEC);
    printf("%d\n", run(times));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        printf("%d\n", run(times));
        return 0;
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 8;
}
