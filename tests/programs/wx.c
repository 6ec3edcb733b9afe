// The kernel refuses the program memory that is writable and executable; probes do not need any.
//@ compile: gcc -O2
//@ count: work -- 100
//@ expect-count: work 100
//@ expect-stdout: 100 calls, refused: 1
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, sum = 0;
    prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0);
    if (argc < 3) {
        /* The setting is inherited: the second life is under it from its first instruction on. */
        execl("/proc/self/exe", argv[0], argv[1], "again", (char *)NULL);
        return 1;
    }
    for (int i = 0; i < times; i++)
        sum = work(sum);
    void *both = mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("%d calls, refused: %d\n", sum, both == MAP_FAILED);
    return 0;
}
