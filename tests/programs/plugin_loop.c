// A library that is loaded and unloaded over and over is counted each time.
//@ extra: printf 'int plugin_work(int n) { return n + 2; }\n' > plugin.c && gcc -O2 -shared -fPIC -o plugin.so plugin.c
//@ compile: gcc -O2 -rdynamic
//@ count: plugin!plugin_work work -- {dir}/plugin.so 50
//@ expect-count: work 50
//@ expect-count: plugin_work 150
//@ expect-stdout: 300
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) int work(int n) { return n; }

int main(int argc, char **argv)
{
    int times = argc > 2 ? atoi(argv[2]) : 1, sum = 0;
    for (int i = 0; i < times; i++) {
        void *library = dlopen(argv[1], RTLD_NOW);
        if (library == NULL) {
            puts(dlerror());
            return 1;
        }
        int (*function)(int) = (int (*)(int))dlsym(library, "plugin_work");
        for (int j = 0; j < 3; j++)
            sum += function(0);
        work(i);
        dlclose(library);
    }
    printf("%d\n", sum);
    return 0;
}
