// Children of children, all of which run at once and end in any order.
//@ compile: gcc -O2
//@ count: -f work -- 4
//@ expect-count: work 160
//@ count: work -- 4
//@ expect-count: work 10
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int depth = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 0; i < depth; i++)
        fork();
    int sum = 0;
    for (int i = 0; i < 10; i++)
        sum = work(sum);
    int status, bad = sum != 10;
    while (wait(&status) > 0)
        bad |= status;
    return bad;
}
