// Faults in the innermost of three functions when its input ends.
#include <stdio.h>
#include <unistd.h>

#define NOIPA __attribute__((noipa))

NOIPA int load(volatile int *from) { return *from; }
NOIPA int middle(volatile int *from) { return load(from) + 1; }
NOIPA int outer(volatile int *from) { return middle(from) + 1; }

int main(void)
{
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        continue;
    return outer(NULL);
}
