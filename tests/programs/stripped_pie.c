// Without symbols a place is named by its address in the file.
//@ compile: gcc -O2
//@ compile: gcc -O2 -static-pie
//@ strip
//@ count: main -- 12
//@ expect-count: main 1
//@ count: stripped_pie!*{link:work} -- 12
//@ expect-count: sub_{hex:work} 12
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n * 3 + 1; }

int main(int argc, char **argv)
{
    int sum = 0;
    for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
        sum += work(i);
    printf("%d\n", sum);
    return 0;
}
