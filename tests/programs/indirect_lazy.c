// Indirect functions of a library that are bound when they are first called, by a thread each, or asked for by name: every
// call counts, the first one too.
//@ extra: gcc -O1 -shared -fPIC -DLIBRARY -o {dir}/libchosen.so {source}
//@ compile: gcc -O1 -pthread -Wl,-z,lazy,-rpath,{dir} -L{dir} -Wl,--no-as-needed -lchosen
//@ compile: gcc -O1 -pthread -Wl,-z,now,-rpath,{dir} -L{dir} -Wl,--no-as-needed -lchosen
//@ compile: gcc -O1 -pthread -fcf-protection -Wl,-z,lazy,-rpath,{dir} -L{dir} -Wl,--no-as-needed -lchosen
//@ count: chosen other named -- 30
//@ expect-count: chosen 60
//@ expect-count: other 30
//@ expect-count: named 30
//@ expect-stdout: 1080
#ifdef LIBRARY

static int one(int n) { return n + 1; }
static int two(int n) { return n + 2; }
static int three(int n) { return n + 3; }
static void *pick_one(void) { return one; }
static void *pick_two(void) { return two; }
static void *pick_three(void) { return three; }
int chosen(int) __attribute__((ifunc("pick_one")));
int other(int) __attribute__((ifunc("pick_two")));
int named(int) __attribute__((ifunc("pick_three")));

#else

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

int chosen(int);
int other(int);

static long times = 1;

static void *call_chosen(void *unused)
{
    long sum = 0;
    for (int i = 0; i < times; i++)
        sum += chosen(i);
    return (void *)sum;
}

static void *call_other(void *unused)
{
    long sum = 0;
    for (int i = 0; i < times; i++)
        sum += other(i);
    return (void *)sum;
}

int main(int argc, char **argv)
{
    void *(*work[])(void *) = { call_chosen, call_other, call_chosen };
    pthread_t threads[3];
    long total = 0;
    if (argc > 1)
        times = atol(argv[1]);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work[i], NULL);
    for (int i = 0; i < 3; i++) {
        void *sum;
        pthread_join(threads[i], &sum);
        total += (long)sum;
    }
    int (*named)(int) = (int (*)(int))dlsym(RTLD_DEFAULT, "named");
    for (int i = 0; i < times; i++)
        total += named(0) - i;
    printf("%ld\n", total);
    return 0;
}

#endif
