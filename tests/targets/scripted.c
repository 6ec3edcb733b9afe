/* What scripts are tried on: functions with arguments, results, locals, loops. With -g, and -rdynamic for names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct inner {
    int kind;
    const char *name;
};

struct item {
    int number;
    struct inner inner;
    struct item *next;
};

int x;
long total;
enum mood { CALM, ANGRY = 7 } mood = ANGRY;

__attribute__((noinline)) int step_by(int by) {
    int before = x;
    x = by;
    total += by;
    return before;
}

__attribute__((noinline)) long length_of(struct item *list) {
    long count = 0;
    for (struct item *at = list; at; at = at->next)
        count++;
    return count;
}

__attribute__((noinline)) double half(double value, float scale) {
    return value * scale;
}

__attribute__((noinline)) int put(const char *text, size_t size) {
    return (int)(strlen(text) + size);
}

int main(void) {
    static const int steps[] = {3, 0, 5, 0, 2, 1};
    int sum = 0;
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++)
        sum += step_by(steps[i]);
    struct item *list = NULL;
    for (int i = 0; i < 10; i++) {
        struct item *item = malloc(sizeof *item);
        *item = (struct item){i, {i * i, i & 1 ? "odd" : "even"}, list};
        list = item;
        sum += length_of(list);
    }
    double real = half(8.5, 0.5f);
    for (size_t size = 1; size <= 1024; size *= 2)
        sum += put(size & 0xf ? "short" : "a text that is longer", size);
    printf("sum %d, real %g, total %ld\n", sum, real, total);
    return 0;
}
