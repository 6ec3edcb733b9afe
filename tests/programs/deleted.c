// The program's file is gone, or another one is in its place, when it is probed.
//@ compile: gcc -O2
//@ count: work -- gone 100
//@ expect-count: work 100
//@ count: work -- replaced 100
//@ expect-count: work 100
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

// Runs a copy of this program, whose file is deleted or replaced by another program first.
static void again(const char *how, const char *times)
{
    char self[PATH_MAX], copy[PATH_MAX + 16], other[PATH_MAX + 32];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len < 0 ? 0 : len] = 0;
    snprintf(copy, sizeof copy, "%s.%d", self, getpid());
    int from = open(self, O_RDONLY), to = open(copy, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    struct stat info;
    fstat(from, &info);
    if (sendfile(to, from, NULL, info.st_size) != info.st_size)
        exit(9);
    close(to);
    int program = open(copy, O_PATH | O_CLOEXEC);
    if (strcmp(how, "replaced") == 0) {
        // Any other program: no function of it has to do with this one.
        snprintf(other, sizeof other, "%s.other", copy);
        int shell = open("/bin/sh", O_RDONLY), out = open(other, O_WRONLY | O_CREAT | O_TRUNC, 0755);
        fstat(shell, &info);
        if (sendfile(out, shell, NULL, info.st_size) != info.st_size)
            exit(9);
        rename(other, copy);
    } else {
        unlink(copy);
    }
    char *arguments[] = { "again", (char *)how, (char *)times, copy, NULL };
    fexecve(program, arguments, environ);
    exit(8);
}

int main(int argc, char **argv)
{
    if (strcmp(argv[0], "again") != 0)
        again(argc > 1 ? argv[1] : "gone", argc > 2 ? argv[2] : "1");
    int sum = 0;
    for (int i = 0; i < atoi(argv[2]); i++)
        sum = work(sum);
    unlink(argv[3]);
    printf("%d\n", sum);
    return 0;
}
