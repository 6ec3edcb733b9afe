// A program that keeps data of its own behind gs, as emulators and some runtimes do: it keeps it, and is counted.
//@ compile: gcc -O2 -pthread
//@ compile: gcc -O2 -pthread -DIMPORTED
//@ compile: gcc -O2 -pthread -DHIDDEN
//@ count: work -- 
//@ expect-count: work 40000
//@ expect-stdout: wrong 0
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_SET_GS = 0x1001 };
int arch_prctl(int code, unsigned long address);

static int wrong;
/* Nobody sees what it is but at run time. */
volatile int code = ARCH_SET_GS;

__attribute__((noipa)) void work(long expected)
{
    long found;
    __asm__ volatile("mov %%gs:8, %0" : "=r"(found));
    if (found != expected)
        __sync_fetch_and_add(&wrong, 1);
}

static void *run(void *name)
{
    long data[2] = { 0, (long)name };
#ifdef IMPORTED
    arch_prctl(ARCH_SET_GS, (unsigned long)data);
#elif defined(HIDDEN)
    syscall(SYS_arch_prctl, code, data);
#else
    syscall(SYS_arch_prctl, ARCH_SET_GS, data);
#endif
    for (int i = 0; i < 10000; i++)
        work((long)name);
    return NULL;
}

int main(void)
{
    pthread_t threads[3];
    for (long i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, run, (void *)(i + 1));
    run((void *)9L);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("wrong %d\n", wrong);
    return 0;
}
