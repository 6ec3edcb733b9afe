// Vector registers of the widest kind, and mask registers, live through probes, also through traps.
//@ compile: gcc -O2 -mavx512f -mavx512bw
//@ needs: cpu avx512bw
//@ count: mix keep -- 1000
//@ expect-count: mix 1000
//@ expect-count: keep 1000
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noipa)) __m512i mix(__m512i a, __m512i b) { return _mm512_add_epi32(_mm512_slli_epi32(a, 1), b); }

__attribute__((noipa)) __mmask16 keep(__m512i a, __m512i b) { return _mm512_cmplt_epi32_mask(a, b); }

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1;
    __m512i sum = _mm512_set1_epi32(1);
    unsigned masks = 0;
    for (int i = 0; i < times; i++) {
        __m512i next = _mm512_set_epi32(i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        sum = mix(sum, next);
        masks = masks * 3 + keep(sum, next);
    }
    int lanes[16];
    _mm512_storeu_si512(lanes, sum);
    for (int i = 0; i < 16; i++)
        printf("%d ", lanes[i]);
    printf("%u\n", masks);
    return 0;
}
