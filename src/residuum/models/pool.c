/* Max pooling of bfloat16 [N, H, W, C] with the channels innermost (channels_last), C a multiple of 16: the values, a byte
   for each that says where it was, and the gradient. Needs AVX-512 with bfloat16 instructions. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

enum { LANES = 16 };

typedef uint16_t bf16;

typedef struct {
    int64_t pictures, height, width, channels, size, stride, padding, high, wide; /* high and wide are the result's */
} Pool;

static inline __m512 load(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

static inline void store(bf16 *to, __m512 value) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(value));
}

static inline int64_t at_least_0(int64_t number) { return number > 0 ? number : 0; }

static inline int64_t at_most(int64_t number, int64_t limit) { return number < limit ? number : limit; }

/* y: the largest of each window's values; of those around the picture none is. `place`, which may be NULL, says which of
   the window's it was, row by row: the first of several, or the last that is no number, as torch does it. */
void max_pool_forward(const Pool *pool, const bf16 *x, bf16 *y, uint8_t *place) {
    const Pool p = *pool;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < p.pictures * p.high; row++) {
        const int64_t top = row % p.high * p.stride - p.padding;
        const bf16 *picture = x + row / p.high * p.height * p.width * p.channels;
        const int64_t from_i = at_least_0(-top), to_i = at_most(p.size, p.height - top);
        for (int64_t column = 0; column < p.wide; column++) {
            const int64_t left = column * p.stride - p.padding;
            const int64_t from_j = at_least_0(-left), to_j = at_most(p.size, p.width - left);
            for (int64_t c = 0; c < p.channels; c += LANES) {
                __m512 most = _mm512_set1_ps(-INFINITY);
                __m512i which = _mm512_set1_epi32((int)(p.size * from_i + from_j)); /* should all be -inf */
                for (int64_t i = from_i; i < to_i; i++)
                    for (int64_t j = from_j; j < to_j; j++) {
                        const __m512 value = load(picture + ((top + i) * p.width + left + j) * p.channels + c);
                        const __mmask16 more = _mm512_cmp_ps_mask(value, most, _CMP_GT_OQ) |
                                               _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
                        most = _mm512_mask_mov_ps(most, more, value);
                        which = _mm512_mask_mov_epi32(which, more, _mm512_set1_epi32((int)(p.size * i + j)));
                    }
                const int64_t at = (row * p.wide + column) * p.channels + c;
                store(y + at, most);
                if (place) _mm_storeu_si128((__m128i *)(place + at), _mm512_cvtepi32_epi8(which));
            }
        }
    }
}

/* The gradient of x from that of y: where windows overlap the sum of several, rounded once. */
void max_pool_backward(const Pool *pool, const bf16 *gradient, const uint8_t *place, bf16 *of_x) {
    const Pool p = *pool;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < p.pictures * p.height; row++) {
        const int64_t first = row / p.height * p.high, down = row % p.height + p.padding;
        const int64_t from_i = at_least_0(down - p.size + p.stride) / p.stride, to_i = at_most(down / p.stride + 1, p.high);
        for (int64_t column = 0; column < p.width; column++) {
            const int64_t across = column + p.padding;
            const int64_t from_j = at_least_0(across - p.size + p.stride) / p.stride;
            const int64_t to_j = at_most(across / p.stride + 1, p.wide);
            for (int64_t c = 0; c < p.channels; c += LANES) {
                __m512 sum = _mm512_setzero_ps();
                for (int64_t i = from_i; i < to_i; i++)
                    for (int64_t j = from_j; j < to_j; j++) {
                        const int64_t at = ((first + i) * p.wide + j) * p.channels + c;
                        const int64_t own = p.size * (down - p.stride * i) + across - p.stride * j;
                        const __m512i which = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(place + at)));
                        const __mmask16 it = _mm512_cmpeq_epi32_mask(which, _mm512_set1_epi32((int)own));
                        sum = _mm512_mask_add_ps(sum, it, sum, load(gradient + at));
                    }
                store(of_x + (row * p.width + column) * p.channels + c, sum);
            }
        }
    }
}
