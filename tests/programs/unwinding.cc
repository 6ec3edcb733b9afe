// Ways out of probed code that unwind or jump, begun in signal handlers over displaced instructions: an exception, a
// backtrace, cancellation of a thread at any instruction, longjmp, contexts.
//@ compile: g++ -O2 -rdynamic -pthread -fnon-call-exceptions
//@ count: --points instruction load tick spin middle outer -- 20
//@ expect-count: load >=60
//@ expect-stdout: caught 20, destroyed 40
//@ expect-stdout: load middle outer main
//@ expect-stdout: jumped 20
//@ expect-stdout: cancelled 20, destroyed 20
//@ expect-stdout: switched 40
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef LIBPATCH
#include <libpatch/patch.h>
#endif

#define FUNCTION extern "C" __attribute__((noipa, visibility("default")))

FUNCTION int load(volatile int *from) { return *from; }
FUNCTION void tick(volatile long *n) { *n = *n + 1; }
FUNCTION int middle(volatile int *from) { return load(from) + 1; }
FUNCTION int outer(volatile int *from) { return middle(from) + 1; }

FUNCTION void spin(volatile long *n)
{
    for (;;)
        tick(n);
}

static int destroyed;

struct Guard {
    ~Guard() { __atomic_fetch_add(&destroyed, 1, __ATOMIC_RELAXED); }
};

static void handle(int signal, void (*handler)(int))
{
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = SA_NODEFER;
    sigaction(signal, &action, NULL);
}

static void throws(int) { throw 7; }

__attribute__((noipa)) static int guarded(volatile int *from)
{
    Guard guard;
    return outer(from);
}

static int caught(int times)
{
    int caught = 0;
    handle(SIGSEGV, throws);
    for (int i = 0; i < times; i++) {
        try {
            Guard guard;
            guarded(NULL);
        } catch (int seven) {
            caught += seven == 7;
        }
    }
    return caught;
}

static const char *const known_names[] = {"load", "middle", "outer", "main"};
static char names[256];
static sigjmp_buf back;

static void looks(int)
{
    void *frames[64];
    Dl_info info;
    int count = backtrace(frames, 64);
    names[0] = 0;
    for (int i = 0; i < count; i++)
        if (dladdr(frames[i], &info) && info.dli_sname != NULL)
            for (const char *known : known_names)
                if (strcmp(info.dli_sname, known) == 0 && strstr(names, known) == NULL)
                    strcat(strcat(names, " "), known);
    siglongjmp(back, 1);
}

static void *loops(void *n)
{
    Guard guard;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    spin((volatile long *)n);
    return NULL;
}

static ucontext_t here, there;

static void coroutine(void)
{
    static int one = 1;
    for (;;) {
        outer(&one);
        swapcontext(&there, &here);
    }
}

#ifdef LIBPATCH
static void probe(char how)
{
    static const char *const functions[] = {"load", "tick", "spin", "middle", "outer"};
    static const patch_opt everybody = {PATCH_OPT_UNWINDING, 0, PATCH_UNWINDING_EVERYBODY};
    static const patch_opt original = {PATCH_OPT_HANDLERS, 0, PATCH_HANDLERS_ORIGINAL};
    if (patch_init(how == 'o' ? &original : &everybody, 1))
        puts(patch_error_string());
    for (const char *function : functions) {
        patch_op op = {};
        op.type = PATCH_OP_COUNT;
        op.addr.func_sym = function;
        patch_queue(PATCH_FENTRY, &op);
    }
    if (patch_commit(NULL, NULL) != PATCH_OK)
        puts(patch_error_string());
}
#endif

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 10;
    volatile int jumped = 0, cancelled = 0, switched = 0;
    void *frame;
    // It loads what it needs when it is called first, which is not for a handler.
    backtrace(&frame, 1);
#ifdef LIBPATCH
    probe(argc > 2 ? argv[2][0] : 'e');
#endif
    int thrown = caught(times);
    printf("caught %d, destroyed %d\n", thrown, destroyed);

    handle(SIGSEGV, looks);
    if (sigsetjmp(back, 1) == 0)
        outer(NULL);
    puts(names + 1);
    for (volatile int i = 0; i < times; i++) {
        if (sigsetjmp(back, 1) == 0)
            outer(NULL);
        else
            jumped = jumped + 1;
    }
    printf("jumped %d\n", jumped);

    destroyed = 0;
    for (int i = 0; i < times; i++) {
        volatile long n = 0;
        pthread_t thread;
        void *result;
        pthread_create(&thread, NULL, loops, (void *)&n);
        while (n < 1000)
            usleep(100);
        pthread_cancel(thread);
        pthread_join(thread, &result);
        cancelled = cancelled + (result == PTHREAD_CANCELED);
    }
    printf("cancelled %d, destroyed %d\n", cancelled, destroyed);

    static char stack[65536];
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    makecontext(&there, coroutine, 0);
    for (int i = 0; i < 2 * times; i++) {
        swapcontext(&here, &there);
        switched = switched + 1;
    }
    printf("switched %d\n", switched);
#ifdef LIBPATCH
    patch_fini();
#endif
    return 0;
}
