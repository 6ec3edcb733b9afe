// Another program takes over the process; what matches in it is counted too.
//@ extra: printf '#include <stdio.h>\n__attribute__((noipa)) int work(int n) { return n; }\nint main(int c, char **v) { (void)v; for (int i = 0; i < 5; i++) work(c); puts("other"); return 3; }\n' > other.c && gcc -O2 -no-pie -fno-pie -o other other.c
//@ compile: gcc -O2
//@ count: work -- {dir}/other
//@ expect-count: work 7
//@ expect-stdout: other
//@ expect-exit: 3
#include <unistd.h>

__attribute__((noipa)) int work(int n) { return n + 1; }

int main(int argc, char **argv)
{
    work(argc);
    work(argc);
    execl(argv[1], argv[1], (char *)NULL);
    return 1;
}
