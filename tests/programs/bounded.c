// A program whose memory is bounded to little more than it has.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static-pie
//@ count: --points instruction work+0..work+END -- 1000
//@ expect-count: work 1000
//@ expect-stdout: 1000
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    if (limit.rlim_cur == RLIM_INFINITY) {
        limit.rlim_cur = 16 << 20;
        setrlimit(RLIMIT_AS, &limit);
        execv("/proc/self/exe", argv);
        return 1;
    }
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum = work(sum);
    printf("%d\n", sum);
    return 0;
}
