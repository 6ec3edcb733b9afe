// Linkage stubs: every instruction of theirs counts, also where the first call goes through the dynamic linker.
//@ compile: gcc -O2 -Wl,-z,lazy -fno-builtin
//@ compile: gcc -O2 -Wl,-z,now -fno-builtin
//@ compile: gcc -O2 -Wl,-z,lazy -fno-builtin -fcf-protection=full -no-pie
//@ count: --points instruction linkage!*{link:_init}..*{link:_start} -- 100
//@ expect-count: main 1
//@ expect-count: _init 1
//@ expect-stdout: 100 100
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, calls = 0, sum = 0;
    for (; calls < times; calls++)
        sum += rand() >= 0;
    printf("%d %d\n", calls, sum);
    return 0;
}
