/* Functions of many shapes: switches, tail calls, functions that never return, callbacks, cold paths. */
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*operation)(int, int);

static int add(int a, int b) { return a + b; }
static int subtract(int a, int b) { return a - b; }
static int multiply(int a, int b) { return a * b; }
static int divide(int a, int b) { return b ? a / b : 0; }
static const operation operations[] = {add, subtract, multiply, divide};

__attribute__((noinline, noreturn)) static void fail(const char *why) {
    fprintf(stderr, "failed: %s\n", why);
    exit(1);
}

__attribute__((noinline, noreturn)) static void fail_twice(const char *why, int code) {
    if (code > 1) printf("code %d\n", code);
    fail(why);
}

__attribute__((noinline)) int dense(int x, int y) {
    switch (x) {
    case 0: return y + 1;
    case 1: return y * 3;
    case 2: return y ^ 7;
    case 3: return y - 9;
    case 4: return y << 2;
    case 5: return y >> 1;
    case 6: return -y;
    case 7: return y | 1;
    case 8: return y & 12;
    case 9: return y / 3;
    default: return 0;
    }
}

__attribute__((noinline)) int sparse(unsigned char c) {
    switch (c) {
    case 'a': return 1;
    case 'e': return 20;
    case 'i': return 300;
    case 'o': return 4000;
    case 'u': return 50000;
    case 'y': return 600000;
    case '%': return 7;
    case '&': return 8;
    default: return 0;
    }
}

__attribute__((noinline)) int shifted(int x, char *out) {
    switch (x - 100) {
    case 0: strcpy(out, "zero"); return 4;
    case 1: strcpy(out, "one"); return 3;
    case 2: strcpy(out, "two"); break;
    case 3: strcpy(out, "three"); break;
    case 4: strcpy(out, "four"); return 44;
    case 5: strcpy(out, "five"); return 55;
    case 6: fail_twice("six", x);
    case 7: strcpy(out, "seven"); return 77;
    }
    return (int)strlen(out);
}

__attribute__((noinline)) int interpret(const unsigned char *code, int steps) {
    static const void *const labels[] = {&&push, &&sum, &&swap, &&halt};
    int a = 0, b = 1;
    goto *labels[*code & 3];
push:
    a += 5;
    if (--steps <= 0) return a;
    goto *labels[*++code & 3];
sum:
    a += b;
    if (--steps <= 0) return a;
    goto *labels[*++code & 3];
swap: {
    int t = a;
    a = b;
    b = t;
    if (--steps <= 0) return a;
    goto *labels[*++code & 3];
}
halt:
    return a * 1000 + b;
}

__attribute__((noinline)) int tail(int x, int y) {
    if (x > 10) return dense(x - 10, y);
    return sparse((unsigned char)y);
}

__attribute__((noinline)) int apply(unsigned which, int a, int b) { return operations[which & 3](a, b); }

__attribute__((noinline)) static int even(unsigned n);
__attribute__((noinline)) static int odd(unsigned n) { return n == 0 ? 0 : even(n - 1) ^ (n == 77); }
__attribute__((noinline)) static int even(unsigned n) { return n == 0 ? 1 : odd(n - 1) ^ (n == 99); }

static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static jmp_buf back;
__attribute__((noinline)) static void leap(int x) {
    if (x > 2) longjmp(back, x);
    printf("no leap %d\n", x);
}

__attribute__((noinline)) uint64_t hash(const char *text, size_t length) {
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < length; i++) {
        for (int k = 0; k < 3; k++) h = (h ^ (uint64_t)text[i]) * 1099511628211u;
        if (h % 251 == 0) continue;
        while (h & 1) h >>= 1;
    }
    return h;
}

__attribute__((noinline)) static double mean(const double *values, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += values[i];
    return count ? sum / count : 0;
}

__attribute__((noinline)) static int checked(int x) {
    if (__builtin_expect(x < 0, 0)) fail_twice("negative", x);
    return x * 2;
}

__attribute__((constructor)) static void begin(void) { setvbuf(stdout, 0, _IOFBF, 1 << 12); }
__attribute__((destructor)) static void finish(void) { fflush(stdout); }

int main(int argc, char **argv) {
    char out[32] = "";
    int numbers[] = {5, 3, 9, 1};
    double values[] = {1, 2, 4};
    long sum = 0;
    for (int i = 0; i < 12; i++) sum += dense(i, i * 7) + tail(i * 2, i * 11) + shifted(99 + i % 6, out);
    qsort(numbers, 4, sizeof numbers[0], compare);
    for (unsigned i = 0; i < 4; i++) sum += apply(i, numbers[i], argc);
    sum += interpret((const unsigned char *)"\0\1\2\1\0\3", 20) + even(40) + checked(argc);
    if (setjmp(back) == 0) leap(argc + 3);
    printf("%ld %s %llu %g\n", sum, argv[0] ? "named" : "nameless", (unsigned long long)hash("abc", 3) % 1000,
           mean(values, 3));
    return 0;
}
