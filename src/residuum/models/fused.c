/* Batch norm, an optional addition, and an activation, in one: forward and backward, in training, for bfloat16 [R, C] with
   the channels innermost (channels_last), C a multiple of 16. Needs AVX-512 with bfloat16 instructions.

   Sums are made over blocks of rows that do not depend on the number of threads, so neither do the results. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint16_t bf16;

enum { LANES = 16, BLOCKS = 64 };

typedef enum { RELU, GELU } Activation;

static inline __m512 load(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

static inline void store(bf16 *to, __m512 value) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(value));
}

/* What a value is after it was stored. */
static inline __m512 rounded(__m512 value) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(value)), 16));
}

/* exp(x) of x <= 0, to about 2e-7 of it. */
static inline __m512 exponential(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    const __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(1.42860677e-6f), /* log 2 in two parts */
                                         _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693145752f), x));
    __m512 sum = _mm512_set1_ps(1 / 720.f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1 / 120.f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1 / 24.f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1 / 6.f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.5f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1));
    return _mm512_scalef_ps(sum, whole);
}

/* The standard normal distribution at z, and its density: to 1e-7, by Abramowitz and Stegun 7.1.26 (Handbook of
   Mathematical Functions, 1964). */
static inline __m512 normal(__m512 z, __m512 *density) {
    const __m512 far = _mm512_min_ps(_mm512_set1_ps(16), _mm512_abs_ps(z)); /* of a NaN the second, which is the NaN */
    const __m512 power = exponential(_mm512_mul_ps(_mm512_mul_ps(far, far), _mm512_set1_ps(-0.5f)));
    const __m512 divisor = _mm512_fmadd_ps(far, _mm512_set1_ps(0.3275911f * 0.707106781f), _mm512_set1_ps(1));
    const __m512 near = _mm512_rcp14_ps(divisor);
    const __m512 t = _mm512_mul_ps(near, _mm512_fnmadd_ps(divisor, near, _mm512_set1_ps(2))); /* 1 / divisor */
    __m512 sum = _mm512_set1_ps(1.061405429f / 2);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f / 2));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f / 2));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f / 2));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f / 2));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(sum, t), power);
    *density = _mm512_mul_ps(power, _mm512_set1_ps(0.398942280f));
    const __mmask16 negative = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_sub_ps(_mm512_set1_ps(1), tail), negative, tail);
}

static inline __m512 activated(Activation by, __m512 z) {
    if (by == RELU) return _mm512_max_ps(_mm512_setzero_ps(), z); /* of a NaN the second operand, which is the NaN */
    __m512 density;
    return _mm512_mul_ps(z, normal(z, &density));
}

/* The gradient of scale * x + shift + residual, from that of what the activation makes of it. `kept` tells what x does not:
   to ReLU y, to GELU the residual; NULL where there was no residual. */
static inline __m512 before(Activation by, __m512 gradient, __m512 x, const bf16 *kept, const float *scale,
                            const float *shift) {
    __m512 z = _mm512_fmadd_ps(x, _mm512_loadu_ps(scale), _mm512_loadu_ps(shift));
    if (by == RELU) { /* where y was above 0, or no number */
        const __mmask16 on = _mm512_cmp_ps_mask(kept ? load(kept) : rounded(z), _mm512_setzero_ps(), _CMP_NLE_UQ);
        return _mm512_maskz_mov_ps(on, gradient);
    }
    if (kept) z = _mm512_add_ps(z, load(kept));
    __m512 density;
    const __m512 distribution = normal(z, &density);
    return _mm512_mul_ps(gradient, _mm512_fmadd_ps(z, density, distribution));
}

static inline int64_t begin_of(int64_t block, int64_t rows) { return rows * block / BLOCKS; }

/* The sums of all blocks, in their order; sums is float [BLOCKS, 2, C]. */
static void total(const float *sums, int64_t channels, int64_t which, int64_t channel, double *found) {
    *found = 0;
    for (int64_t block = 0; block < BLOCKS; block++) *found += sums[(block * 2 + which) * channels + channel];
}

/* y = activation(weight * (x - mean) / std + bias + residual); residual may be NULL. Leaves mean and 1 / std of the batch,
   and scale and shift: y = activation(scale * x + shift + residual). Returns 0, or 1 where memory is short. */
int norm_activation_forward(Activation by, const bf16 *x, const bf16 *residual, const float *weight, const float *bias,
                            float eps, int64_t rows, int64_t channels, bf16 *y, float *mean, float *variance,
                            float *inverse_std, float *scale, float *shift) {
    float *sums = calloc((size_t)BLOCKS * 2 * channels, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < BLOCKS; block++) {
            const int64_t first = begin_of(block, rows), last = begin_of(block + 1, rows);
            for (int64_t c = 0; c < channels; c += LANES) {
                __m512 one = _mm512_setzero_ps(), two = one, one_b = one, two_b = one;
                int64_t row = first;
                for (; row + 1 < last; row += 2) {
                    const __m512 a = load(x + row * channels + c), b = load(x + (row + 1) * channels + c);
                    one = _mm512_add_ps(one, a);
                    two = _mm512_fmadd_ps(a, a, two);
                    one_b = _mm512_add_ps(one_b, b);
                    two_b = _mm512_fmadd_ps(b, b, two_b);
                }
                if (row < last) {
                    const __m512 a = load(x + row * channels + c);
                    one = _mm512_add_ps(one, a);
                    two = _mm512_fmadd_ps(a, a, two);
                }
                _mm512_storeu_ps(sums + (block * 2) * channels + c, _mm512_add_ps(one, one_b));
                _mm512_storeu_ps(sums + (block * 2 + 1) * channels + c, _mm512_add_ps(two, two_b));
            }
        }
#pragma omp single
        for (int64_t c = 0; c < channels; c++) {
            double sum, squares;
            total(sums, channels, 0, c, &sum);
            total(sums, channels, 1, c, &squares);
            const double middle = sum / rows, spread = fmax(squares / rows - middle * middle, 0);
            const double inverse = 1 / sqrt(spread + eps);
            mean[c] = (float)middle;
            variance[c] = (float)spread;
            inverse_std[c] = (float)inverse;
            scale[c] = (float)(weight[c] * inverse);
            shift[c] = (float)(bias[c] - middle * weight[c] * inverse);
        }
#pragma omp for schedule(static)
        for (int64_t block = 0; block < BLOCKS; block++)
            for (int64_t row = begin_of(block, rows); row < begin_of(block + 1, rows); row++)
                for (int64_t c = 0; c < channels; c += LANES) {
                    const int64_t at = row * channels + c;
                    __m512 value = _mm512_fmadd_ps(load(x + at), _mm512_loadu_ps(scale + c), _mm512_loadu_ps(shift + c));
                    if (residual) value = _mm512_add_ps(value, load(residual + at));
                    store(y + at, activated(by, value));
                }
    }
    free(sums);
    return 0;
}

/* y = activation(scale * x + shift), bit for bit what the forward pass gave. */
void norm_activation_again(Activation by, const bf16 *x, const float *scale, const float *shift, int64_t rows,
                           int64_t channels, bf16 *y) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t at = row * channels + c;
            const __m512 value = _mm512_fmadd_ps(load(x + at), _mm512_loadu_ps(scale + c), _mm512_loadu_ps(shift + c));
            store(y + at, activated(by, value));
        }
}

/* The gradients of x, of the residual (NULL: none), of weight and bias, from that of y. `kept` is as `before` says. */
int norm_activation_backward(Activation by, const bf16 *x, const bf16 *kept, const bf16 *gradient, const float *weight,
                             const float *mean, const float *inverse_std, const float *scale, const float *shift,
                             int64_t rows, int64_t channels, bf16 *of_x, bf16 *of_residual, float *of_weight,
                             float *of_bias) {
    float *sums = calloc((size_t)(BLOCKS + 1) * 2 * channels + channels, sizeof(float));
    if (!sums) return 1;
    float *by_x = sums + (size_t)BLOCKS * 2 * channels, *constant = by_x + channels, *by_gradient = constant + channels;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < BLOCKS; block++) {
            const __m512 zero = _mm512_setzero_ps();
            for (int64_t c = 0; c < channels; c += LANES) {
                const __m512 middle = _mm512_loadu_ps(mean + c);
                __m512 one = zero, two = zero;
                for (int64_t row = begin_of(block, rows); row < begin_of(block + 1, rows); row++) {
                    const int64_t at = row * channels + c;
                    const __m512 value = load(x + at);
                    const __m512 g =
                        before(by, load(gradient + at), value, kept ? kept + at : NULL, scale + c, shift + c);
                    one = _mm512_add_ps(one, g);
                    two = _mm512_fmadd_ps(g, _mm512_sub_ps(value, middle), two);
                }
                _mm512_storeu_ps(sums + (block * 2) * channels + c, one);
                _mm512_storeu_ps(sums + (block * 2 + 1) * channels + c, two);
            }
        }
#pragma omp single
        for (int64_t c = 0; c < channels; c++) {
            double sum, with_x;
            total(sums, channels, 0, c, &sum);
            total(sums, channels, 1, c, &with_x);
            const double inverse = inverse_std[c];
            of_bias[c] = (float)sum;
            of_weight[c] = (float)(with_x * inverse);
            /* weight * inverse * (g - sum / R - (x - mean) * inverse^2 * with_x / R) */
            by_gradient[c] = (float)(weight[c] * inverse);
            by_x[c] = (float)(-weight[c] * inverse * inverse * inverse * with_x / rows);
            constant[c] = (float)(-weight[c] * inverse * sum / rows) - by_x[c] * mean[c];
        }
#pragma omp for schedule(static)
        for (int64_t block = 0; block < BLOCKS; block++) {
            for (int64_t row = begin_of(block, rows); row < begin_of(block + 1, rows); row++)
                for (int64_t c = 0; c < channels; c += LANES) {
                    const int64_t at = row * channels + c;
                    const __m512 value = load(x + at);
                    const __m512 g =
                        before(by, load(gradient + at), value, kept ? kept + at : NULL, scale + c, shift + c);
                    const __m512 rest = _mm512_fmadd_ps(value, _mm512_loadu_ps(by_x + c), _mm512_loadu_ps(constant + c));
                    store(of_x + at, _mm512_fmadd_ps(g, _mm512_loadu_ps(by_gradient + c), rest));
                    if (of_residual) store(of_residual + at, g);
                }
        }
    }
    free(sums);
    return 0;
}
