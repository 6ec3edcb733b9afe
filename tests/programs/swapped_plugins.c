// A library is unloaded and another one is mapped at its place: its code is its own, and it is probed in turn.
//@ compile: gcc -O2 -ldl
//@ extra: printf 'int f(int n) { return n + 1; } int only_first(int n) { return f(n) * 2; }' > {dir}/first.c && gcc -shared -fPIC -O0 -o {dir}/first.so {dir}/first.c
//@ extra: printf 'int g(int n) { return n + 3; } int only_second(int n) { return g(n) * 5; }' > {dir}/second.c && gcc -shared -fPIC -O0 -o {dir}/second.so {dir}/second.c
//@ count: first!only_first second!only_second -- {dir} 20
//@ expect-count: only_first 200
//@ expect-count: only_second 200
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *last;
static int same;

static int use(const char *folder, const char *library, const char *function)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, library);
    void *handle = dlopen(path, RTLD_NOW);
    int (*call)(int) = (int (*)(int))dlsym(handle, function);
    int sum = 0;
    for (int i = 0; i < 10; i++)
        sum += call(i);
    same += last == (void *)call;
    last = call;
    dlclose(handle);
    return sum;
}

int main(int argc, char **argv)
{
    int wrong = 0;
    for (int i = 0; i < (argc > 2 ? atoi(argv[2]) : 1); i++) {
        wrong += use(argv[1], "first.so", "only_first") != 110;
        wrong += use(argv[1], "second.so", "only_second") != 375;
    }
    printf("%d wrong, %s\n", wrong, same > 0 ? "at the same place" : "elsewhere");
    return wrong != 0;
}
