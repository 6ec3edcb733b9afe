// A library that uses gs is loaded while threads are counted: from then on they count without gs, and nothing is lost.
//@ extra: gcc -O2 -shared -fPIC -DLIBRARY -o {dir}/libgs.so {source}
//@ compile: gcc -O2 -pthread
//@ count: work -- {dir}/libgs.so
//@ expect-count: work 420000
//@ expect-stdout: wrong 0
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_SET_GS = 0x1001 };

#ifdef LIBRARY

static __thread long data[2];

void put(long value)
{
    data[1] = value;
    syscall(SYS_arch_prctl, ARCH_SET_GS, data);
}

long get(void)
{
    long found;
    __asm__ volatile("mov %%gs:8, %0" : "=r"(found));
    return found;
}

#else

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

static void (*put)(long);
static long (*get)(void);
static int wrong;
static pthread_barrier_t loaded;

__attribute__((noipa)) void work(void) { __asm__ volatile("" ::: "memory"); }

static void *run(void *name)
{
    for (int i = 0; i < 70000; i++)
        work();
    pthread_barrier_wait(&loaded);
    put((long)name);
    for (int i = 0; i < 70000; i++)
        work();
    if (get() != (long)name)
        __sync_fetch_and_add(&wrong, 1);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[3];
    pthread_barrier_init(&loaded, NULL, 4);
    for (long i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, run, (void *)(i + 1));
    void *library = dlopen(argv[argc - 1], RTLD_NOW);
    if (!library)
        return fprintf(stderr, "%s\n", dlerror());
    put = (void (*)(long))dlsym(library, "put");
    get = (long (*)(void))dlsym(library, "get");
    pthread_barrier_wait(&loaded);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("wrong %d\n", wrong);
    return 0;
}

#endif
