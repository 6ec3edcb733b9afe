// The castle for a process that runs already: it asks again for every line of its input.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char greeting[64] = "a greeting in data";

__attribute__((noinline, noclone)) static int enter(int argc) {
    if (argc < 1) {
        printf("Thank you marrrio, *smooch*!\n");
        return 0;
    }
    printf("Sorry but our princess is in another castle\n");
    return 1;
}

__attribute__((noinline, noclone)) int answer(int seed) {
    return seed % 7 + 40;
}

static volatile int stop;

// Threads that run the code that is patched all the time; every answer has to be one of the two.
static void *ask(void *wrong) {
    while (!stop) {
        int got = answer(2);
        if (got != 42 && got != 77) {
            ++*(long *)wrong;
        }
    }
    return wrong;
}

int main(int argc, char **argv) {
    static long wrong[4];
    pthread_t threads[4];
    char line[16];
    int result = 1;
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, ask, &wrong[i]);
    }
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        result = enter(argc);
        printf("%d %s\n", answer(2), greeting);
    }
    stop = 1;
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("wrong %ld\n", wrong[0] + wrong[1] + wrong[2] + wrong[3]);
    return result;
}
