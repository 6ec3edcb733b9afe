// Code that is made at run time lies in no module: it runs as it was made, called from code that counts and calling it.
//@ compile: gcc -O2
//@ count: --points instruction work+0..work+END caller+0..caller+END -- 1000
//@ expect-count: work 1000
//@ expect-count: caller 1000
//@ expect-stdout: 501500
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int (*Made)(int);

__attribute__((noipa)) int work(int n) { return n + 1; }
__attribute__((noipa)) int caller(Made made, int n) { return made(n) + 1; }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, sum = 0;
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // sub $8,%rsp ; mov $work,%rax ; call *%rax ; add $constant,%eax ; add $8,%rsp ; ret
    static const unsigned char made[] = { 0x48, 0x83, 0xec, 0x08, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0,
                                          0x05, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0xc3 };
    memcpy(code, made, sizeof made);
    uint64_t target = (uint64_t)(uintptr_t)work;
    memcpy(code + 6, &target, sizeof target);
    // It changes each time.
    for (int i = 0; i < times; i++) {
        mprotect(code, 4096, PROT_READ | PROT_WRITE);
        memcpy(code + 17, &i, sizeof i);
        mprotect(code, 4096, PROT_READ | PROT_EXEC);
        sum += caller((Made)(void *)code, 0);
    }
    printf("%d\n", sum);
    return 0;
}
