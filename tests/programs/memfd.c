// A program that lies in a memory file only.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static
//@ count: work -- 100
//@ expect-count: work 100
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    if (strcmp(argv[0], "in memory") != 0) {
        int from = open("/proc/self/exe", O_RDONLY), to = memfd_create("program", MFD_CLOEXEC);
        struct stat info;
        fstat(from, &info);
        if (sendfile(to, from, NULL, info.st_size) != info.st_size)
            return 9;
        char *arguments[] = { "in memory", argc > 1 ? argv[1] : "1", NULL };
        fexecve(to, arguments, environ);
        return 8;
    }
    int sum = 0;
    for (int i = 0; i < atoi(argv[1]); i++)
        sum = work(sum);
    printf("%d\n", sum);
    return 0;
}
