/* Variables of every kind, for a comparison with a debugger. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum color { RED, GREEN = 5, BLUE = -3 };

struct point {
    short x;
    double y;
};

typedef struct node {
    int value;
    unsigned low : 3, middle : 7;
    signed high : 5;
    enum color color;
    struct node *next;
    union {
        long whole;
        char bytes[8];
    };
    struct point at[3];
    const char *name;
} node;

struct pair {
    int a, b;
    long c;
};

struct mixed {
    double d;
    unsigned char u;
};

struct large {
    long words[4];
};

node *head;
int counter = -7;
static unsigned char small = 200;
static const double ratio = 2.5;
int table[2][3] = {{1, 2, 3}, {4, 5, 6}};
_Bool on = 1;
volatile long sink;

__attribute__((noipa)) static node *make(int value, enum color color, node *next) {
    node *made = calloc(1, sizeof *made);
    made->value = value;
    made->low = value;
    made->middle = value * 3;
    made->high = -value;
    made->color = color;
    made->next = next;
    made->whole = 0x1122334455667788 + value;
    made->at[1].x = value + 10;
    made->at[2].y = value * 0.5;
    made->name = "made";
    head = made;
    return made;
}

__attribute__((noipa)) static long walk(node *from, int most) {
    long sum = 0;
    int steps = 0;
    for (node *at = from; at && steps < most; at = at->next) {
        int doubled = at->value * 2;
        sum += doubled + at->low;
        steps++;
        {
            long sum = doubled * 100;
            sink += sum;
        }
    }
    counter += steps;
    return sum;
}

__attribute__((noipa)) static double passed(struct pair pair, struct mixed mixed, struct large large, char c,
                                               float f, struct point *point, uint64_t six, unsigned seven,
                                               short eight) {
    double result = pair.a + pair.b + pair.c + mixed.d + mixed.u + large.words[3] + c + f + point->y;
    sink += six + seven + eight;
    sink += (long)result;
    return result * ratio;
}

static inline __attribute__((always_inline)) int inlined(int base, int by) {
    int moved = base + by;
    sink += moved;
    return moved * moved;
}

__attribute__((noipa)) static int outer(int base) {
    int first = inlined(base, small);
    sink += first;
    int second = inlined(first & 15, base);
    return first + second;
}

int main(void) {
    node *list = NULL;
    for (int i = 1; i <= 4; i++)
        list = make(i, i & 1 ? GREEN : BLUE, list);
    long walked = walk(list, 3);
    struct point point = {3, -1.25};
    double real = passed((struct pair){1, -2, 3}, (struct mixed){0.5, 250}, (struct large){{1, 2, 3, 4}}, 'a', 1.5f,
                         &point, 1ull << 63, 4000000000u, -9);
    int squared = outer(6);
    printf("%ld %g %d\n", walked, real, squared);
    return 0;
}
