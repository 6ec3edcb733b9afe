// Nearly all mappings a process may have are in use when a library is loaded that is to be probed.
//@ compile: gcc -O2 -ldl
//@ extra: printf 'int counted(int n) { return n + 1; }' > {dir}/late.c && gcc -shared -fPIC -O2 -o {dir}/late.so {dir}/late.c
//@ count: late!counted -- {dir} 100
//@ expect-count: counted >=0
//@ expect-stdout: 100
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/late.so", argv[1]);
    // Pages of changing protection in one large piece of memory: two mappings more for every two pages.
    size_t pages = 140000;
    char *memory = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t used = 1;
    while (used < pages && mprotect(memory + used * 4096, 4096, PROT_READ) == 0)
        used += 2;
    if (used >= pages)
        fprintf(stderr, "no limit was met\n");
    // Room for the library itself, and hardly more.
    size_t freed = 0;
    for (void *handle = NULL; handle == NULL && freed < 64; freed++) {
        // A failed dlopen leaks mappings.
        for (int i = 0; i < 4; i++) {
            used -= 2;
            mprotect(memory + used * 4096, 4096, PROT_NONE);
        }
        handle = dlopen(path, RTLD_NOW);
        if (handle != NULL) {
            int (*counted)(int) = (int (*)(int))dlsym(handle, "counted");
            int sum = 0;
            for (int i = 0; i < (argc > 2 ? atoi(argv[2]) : 1); i++)
                sum = counted(sum);
            printf("%d\n", sum);
        }
    }
    munmap(memory, pages * 4096);
    return 0;
}
