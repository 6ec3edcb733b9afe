// Does checked work in probed functions until its input ends, then says how much of it was wrong.
// checksum THREADS [fork]: prints "ready" once it runs, and in the end "wrong N".
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int stop, wrong;
static atomic_long rounds;

#define STEP(sum, n) (((sum) ^ (n)) * 0x9e3779b97f4a7c15u + ((sum) >> 29))

__attribute__((noipa)) unsigned long work_step(unsigned long sum, unsigned long n) { return STEP(sum, n); }

__attribute__((noipa)) unsigned long work_leaf(unsigned long sum) { return sum + 1; }

/* Short, and its second instruction is a branch target. */
__attribute__((noipa)) int work_loop(int n)
{
    int count = 0;
    do
        count++;
    while (--n > 0);
    return count;
}

__attribute__((noipa)) unsigned long work_recursive(unsigned long sum, int depth)
{
    return depth == 0 ? sum : work_step(work_recursive(sum, depth - 1), depth);
}

__attribute__((noipa)) void work_nothing(void) {}

static unsigned long expected(unsigned long sum)
{
    for (int i = 0; i < 100; i++)
        sum = STEP(sum, i);
    sum++;
    for (int i = 1; i <= 20; i++)
        sum = STEP(sum, i);
    return sum;
}

__attribute__((noipa)) void work_round(unsigned long seed)
{
    unsigned long sum = seed;
    for (int i = 0; i < 100; i++)
        sum = work_step(sum, i);
    sum = work_recursive(work_leaf(sum), 20);
    work_nothing();
    wrong += sum != expected(seed);
    wrong += work_loop(7) != 7;
    char *text = malloc(100 + seed % 100), *copy;
    memset(text, 'a', 90);
    text[90] = 0;
    copy = strdup(text);
    wrong += strlen(copy) != 90 || strcmp(copy, text) != 0 || strchr(copy, 'b') != NULL;
    free(copy);
    free(text);
    rounds++;
}

static void *run(void *seed)
{
    for (unsigned long n = (unsigned long)seed; !stop; n += 64)
        work_round(n);
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1, forks = argc > 2;
    pthread_t thread[64];
    for (long i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, run, (void *)(i + 1));
    puts("ready");
    fflush(stdout);
    struct pollfd input = { 0, POLLIN, 0 };
    while (poll(&input, 1, forks ? 1 : -1) == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 5; i++)
                work_round(i);
            _exit(wrong != 0);
        }
        int status;
        wrong += waitpid(pid, &status, 0) != pid || status != 0;
    }
    stop = 1;
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    printf("wrong %d\n", wrong);
    fprintf(stderr, "%ld rounds\n", rounds);
    return wrong != 0;
}
