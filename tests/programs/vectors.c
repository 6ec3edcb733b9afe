// Vector registers of every width live through probes, also through traps.
//@ compile: gcc -O2 -mavx2
//@ needs: cpu avx2
//@ count: mix keep -- 1000
//@ expect-count: mix 1000
//@ expect-count: keep 1000
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) __m256i mix(__m256i a, __m256i b) { return _mm256_add_epi32(_mm256_slli_epi32(a, 1), b); }

__attribute__((noipa)) double keep(double a, double b, double c) { return a * b + c; }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    __m256i sum = _mm256_set1_epi32(1);
    double real = 1;
    for (int i = 0; i < times; i++) {
        sum = mix(sum, _mm256_set_epi32(i, 1, 2, 3, 4, 5, 6, 7));
        real = keep(real, 0.5, i);
    }
    int lanes[8];
    _mm256_storeu_si256((__m256i *)lanes, sum);
    for (int i = 0; i < 8; i++)
        printf("%d ", lanes[i]);
    printf("%.17g\n", real);
    return 0;
}
