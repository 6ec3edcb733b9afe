// What runs before main and after it counts too.
//@ compile: gcc -O2
//@ compile: gcc -O2 -no-pie -fno-pie
//@ compile: gcc -O2 -static
//@ count: early late at_exit work --
//@ expect-count: early 1
//@ expect-count: late 1
//@ expect-count: at_exit 1
//@ expect-count: work 4
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) void work(const char *where) { puts(where); }

__attribute__((constructor, noipa)) void early(void) { work("early"); }
__attribute__((destructor, noipa)) void late(void) { work("late"); }
__attribute__((noipa)) void at_exit(void) { work("exit"); }

int main(void)
{
    atexit(at_exit);
    work("main");
    return 0;
}
