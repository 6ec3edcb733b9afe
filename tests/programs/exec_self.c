// A program that runs itself anew, in the same process: the counts of all its lives are added.
//@ compile: gcc -O2
//@ compile: gcc -O2 -no-pie -fno-pie
//@ compile: gcc -O2 -static
//@ count: work -- 4
//@ expect-count: work 30
//@ expect-stdout: 10
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int left = argc > 1 ? atoi(argv[1]) : 0;
    int sum = argc > 2 ? atoi(argv[2]) : 0;
    for (int i = 0; i < left * 3; i++)
        work(i);
    if (left == 0) {
        printf("%d\n", sum);
        return 0;
    }
    char next[16], total[16];
    sprintf(next, "%d", left - 1);
    sprintf(total, "%d", sum + left);
    execl("/proc/self/exe", argv[0], next, total, (char *)NULL);
    return 1;
}
