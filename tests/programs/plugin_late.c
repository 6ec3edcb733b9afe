// A pattern that names a library which is loaded later waits for it; its constructors count too.
//@ extra: printf 'static int ready;\n__attribute__((constructor)) void plugin_start(void) { ready = 1; }\nint plugin_work(int n) { return n + ready; }\n' > plugin.c && gcc -O2 -shared -fPIC -o plugin.so plugin.c
//@ compile: gcc -O2 -pthread
//@ count: work plugin!plugin_work plugin!plugin_start -- {dir}/plugin.so
//@ expect-count: plugin_work 10
//@ expect-count: plugin_start 1
//@ expect-count: work 1
#include <dlfcn.h>
#include <stdio.h>

__attribute__((noipa)) int work(int n) { return n; }

int main(int argc, char **argv)
{
    if (argc < 2)
        return 1;
    work(1);
    void *library = dlopen(argv[1], RTLD_LAZY);
    int (*function)(int) = (int (*)(int))dlsym(library, "plugin_work");
    int sum = 0;
    for (int j = 0; j < 10; j++)
        sum += function(j);
    printf("%d\n", sum);
    return 0;
}
