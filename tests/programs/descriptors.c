// All descriptors are closed and their numbers used again: nothing of ours is among them.
//@ compile: gcc -O2
//@ count: work -- 30
//@ expect-count: work 60
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, open_ones = 0;
    for (int fd = 3; fd < 200; fd++)
        open_ones += fcntl(fd, F_GETFD) != -1;
    for (int i = 0; i < times; i++)
        work(i);
    closefrom(3);
    int first = open("/dev/null", O_RDONLY);
    for (int i = 0; i < times; i++)
        work(i);
    printf("%d open, first free %d\n", open_ones, first);
    return 0;
}
