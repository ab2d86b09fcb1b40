/* Crop and resize, mirror, normalise: each in one go through memory, with the same bits as Pillow and torch.

   resample follows Pillow's Resample.c (8 bits a channel) operation by operation: coefficients in double precision,
   rounded to 22 bits; across and down, one after the other, rounded to 8 bits in between. So it must be compiled without
   contraction into fused multiply-adds (-ffp-contract=off). Channels lie innermost. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE4_1__
#include <immintrin.h>
#endif

typedef uint8_t u8x4 __attribute__((vector_size(4)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

enum { PRECISION = 32 - 8 - 2, HALF = 1 << (PRECISION - 1), BLOCK = 32 };

static double bilinear(double x) {
    if (x < 0) x = -x;
    return x < 1 ? 1 - x : 0;
}

static double bicubic(double x) {
    const double a = -0.5;
    if (x < 0) x = -x;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/* What a row or a column of the result is made of: from `first` on `count` pixels, each times its weight. */
typedef struct {
    int first, count;
} Span;

/* The spans and weights of the results from `offset` to `offset + wanted`, of `out_size` in all. weights is
   [wanted, *most]. Returns 0, or 1 where memory is short. */
static int coefficients(int in_size, float in0, float in1, int out_size, int cubic, int offset, int wanted, int *most,
                        Span **spans, int32_t **weights) {
    double (*filter)(double) = cubic ? bicubic : bilinear;
    double scale = (double)(in1 - in0) / out_size, filterscale = scale;
    if (filterscale < 1) filterscale = 1;
    const double support = (cubic ? 2.0 : 1.0) * filterscale;
    const int size = (int)ceil(support) * 2 + 1;
    *most = size;
    *spans = malloc(sizeof(Span) * (size_t)wanted);
    *weights = malloc(sizeof(int32_t) * (size_t)wanted * (size_t)size);
    double *exact = malloc(sizeof(double) * (size_t)size);
    if (!*spans || !*weights || !exact) {
        free(exact);
        return 1;
    }
    for (int at = 0; at < wanted; at++) {
        const double center = in0 + (at + offset + 0.5) * scale, inverse = 1.0 / filterscale;
        double sum = 0;
        int first = (int)(center - support + 0.5), last = (int)(center + support + 0.5);
        if (first < 0) first = 0;
        if (last > in_size) last = in_size;
        const int count = last - first;
        for (int i = 0; i < count; i++) {
            exact[i] = filter((i + first - center + 0.5) * inverse);
            sum += exact[i];
        }
        int32_t *into = *weights + (size_t)at * size;
        for (int i = 0; i < count; i++) {
            double weight = sum != 0.0 ? exact[i] / sum : exact[i];
            into[i] = weight < 0 ? (int)(-0.5 + weight * (1 << PRECISION)) : (int)(0.5 + weight * (1 << PRECISION));
        }
        (*spans)[at].first = first;
        (*spans)[at].count = count;
    }
    free(exact);
    return 0;
}

static inline uint8_t clipped(int32_t sum) {
    sum >>= PRECISION;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* The 4 bytes at `at`. */
static inline i32x4 four(const uint8_t *at) {
#ifdef __SSE4_1__
    int32_t bytes;
    memcpy(&bytes, at, 4);
    return (i32x4)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
#else
    u8x4 bytes;
    memcpy(&bytes, at, 4);
    return __builtin_convertvector(bytes, i32x4);
#endif
}

/* Writes 4 sums as bytes. */
static inline void put_four(uint8_t *out, i32x4 sum) {
    sum >>= PRECISION;
#ifdef __SSE4_1__
    const __m128i words = _mm_packus_epi32((__m128i)sum, (__m128i)sum);
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(out, &bytes, 4);
#else
    for (int at = 0; at < 4; at++) out[at] = (uint8_t)(sum[at] < 0 ? 0 : sum[at] > 255 ? 255 : sum[at]);
#endif
}

/* One row across, of pixels of `step` bytes (4 bytes are read of each), to 3 bytes each; writes one byte beyond. */
static void across_colour(const uint8_t *row, int step, const Span *spans, const int32_t *weights, int most, int wanted,
                          uint8_t *out) {
    for (int x = 0; x < wanted; x++, weights += most, out += 3) {
        const uint8_t *at = row + (size_t)spans[x].first * step;
        i32x4 sum = {HALF, HALF, HALF, HALF};
        for (int i = 0; i < spans[x].count; i++, at += step) sum += four(at) * weights[i];
        put_four(out, sum);
    }
}

static void across_grey(const uint8_t *row, const Span *spans, const int32_t *weights, int most, int wanted,
                        uint8_t *out) {
    for (int x = 0; x < wanted; x++, weights += most) {
        int32_t sum = HALF;
        for (int i = 0; i < spans[x].count; i++) sum += row[spans[x].first + i] * weights[i];
        out[x] = clipped(sum);
    }
}

/* One row down: `bytes` of `count` rows that lie `stride` bytes apart, each times its weight. */
static void down(const uint8_t *rows, int64_t stride, int count, const int32_t *weights, int64_t bytes, uint8_t *out) {
    int64_t x = 0;
    for (; x + BLOCK <= bytes; x += BLOCK) {
        int32_t sums[BLOCK];
        for (int at = 0; at < BLOCK; at++) sums[at] = HALF;
        for (int i = 0; i < count; i++) {
            const uint8_t *row = rows + i * stride + x;
            const int32_t weight = weights[i];
            for (int at = 0; at < BLOCK; at++) sums[at] += row[at] * weight;
        }
        for (int at = 0; at < BLOCK; at++) out[x + at] = clipped(sums[at]);
    }
    for (; x < bytes; x++) {
        int32_t sum = HALF;
        for (int i = 0; i < count; i++) sum += rows[i * stride + x] * weights[i];
        out[x] = clipped(sum);
    }
}

/* The pixels that results are made of: from *first to before *last. Returns whether there are any. */
static int used(const Span *spans, int wanted, int *first, int *last) {
    *first = spans[0].first, *last = spans[0].first + spans[0].count;
    for (int at = 1; at < wanted; at++) {
        if (spans[at].first < *first) *first = spans[at].first;
        if (spans[at].first + spans[at].count > *last) *last = spans[at].first + spans[at].count;
    }
    return *first < *last;
}

/* Pillow's resize of a picture of width x height pixels at `in`, whose rows lie `stride` bytes apart and whose pixels
   have `step` bytes (1: grey; 3 or 4: colour, of which 4 bytes are read, so that one byte behind the last pixel must be
   readable where they have 3). `box` is resized to out_width x out_height, first across or first down, and of that
   wide x high pixels from left, top on are written to `out`, [high, wide, 1 or 3]. Returns 0, or 1 where memory is short
   or nothing is asked for. */
int resample(const uint8_t *in, int64_t stride, int step, int width, int height, const float *box, int out_width,
             int out_height, int cubic, int down_first, int left, int top, int wide, int high, uint8_t *out) {
    const int channels = step == 1 ? 1 : 3;
    const int64_t bytes = (int64_t)wide * channels;
    int most_x, most_y, first_x, last_x, first_y, last_y, failed = 1;
    Span *spans_x = NULL, *spans_y = NULL;
    int32_t *weights_x = NULL, *weights_y = NULL;
    uint8_t *between = NULL, *row = NULL;
    if (wide < 1 || high < 1) return 1;
    if (coefficients(width, box[0], box[2], out_width, cubic, left, wide, &most_x, &spans_x, &weights_x)) goto done;
    if (coefficients(height, box[1], box[3], out_height, cubic, top, high, &most_y, &spans_y, &weights_y)) goto done;
    if (!used(spans_x, wide, &first_x, &last_x) || !used(spans_y, high, &first_y, &last_y)) goto done;
    row = malloc((size_t)bytes + 4);
    if (!row) goto done;
    if (down_first) {
        const int64_t some = (int64_t)(last_x - first_x) * step;
        between = malloc((size_t)some + 4);
        if (!between) goto done;
        memset(between + some, 0, 4);
        for (int x = 0; x < wide; x++) spans_x[x].first -= first_x;
        for (int y = 0; y < high; y++) {
            down(in + spans_y[y].first * stride + first_x * step, stride, spans_y[y].count,
                 weights_y + (size_t)y * most_y, some, between);
            if (step == 1)
                across_grey(between, spans_x, weights_x, most_x, wide, row);
            else
                across_colour(between, step, spans_x, weights_x, most_x, wide, row);
            memcpy(out + y * bytes, row, (size_t)bytes);
        }
    } else {
        between = malloc((size_t)bytes * (size_t)(last_y - first_y) + 4);
        if (!between) goto done;
        for (int y = first_y; y < last_y; y++) { /* each writes one byte into the next, which comes later */
            uint8_t *to = between + (y - first_y) * bytes;
            if (step == 1)
                across_grey(in + y * stride, spans_x, weights_x, most_x, wide, to);
            else
                across_colour(in + y * stride, step, spans_x, weights_x, most_x, wide, to);
        }
        for (int y = 0; y < high; y++)
            down(between + (spans_y[y].first - first_y) * bytes, bytes, spans_y[y].count,
                 weights_y + (size_t)y * most_y, bytes, out + y * bytes);
    }
    failed = 0;
done:
    free(spans_x);
    free(spans_y);
    free(weights_x);
    free(weights_y);
    free(between);
    free(row);
    return failed;
}

/* Mirrors the pictures numbered `which` of [N, H, W, channels] in place. */
void mirror(uint8_t *images, const int64_t *which, int64_t count, int64_t height, int64_t width, int64_t channels) {
#pragma omp parallel for schedule(static)
    for (int64_t number = 0; number < count * height; number++) {
        const int64_t place = which[number / height] * height + number % height;
        uint8_t *row = images + place * width * channels;
        if (channels == 3) {
            for (uint8_t *a = row, *b = row + (width - 1) * 3; a < b; a += 3, b -= 3) {
                const uint8_t red = a[0], green = a[1], blue = a[2];
                a[0] = b[0], a[1] = b[1], a[2] = b[2];
                b[0] = red, b[1] = green, b[2] = blue;
            }
        } else {
            for (uint8_t *a = row, *b = row + width - 1; a < b; a++, b--) {
                const uint8_t grey = *a;
                *a = *b;
                *b = grey;
            }
        }
    }
}

/* (x / 255 - mean) / std of `pixels` pixels of 1 or 3 channels; `mean` and `std` have 48 numbers, over and over. */
void normalise(const uint8_t *in, int64_t pixels, int64_t channels, const float *mean, const float *std, float *out) {
    const int64_t total = pixels * channels, blocks = total / 48;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; block++)
        for (int lane = 0; lane < 48; lane++)
            out[block * 48 + lane] = ((float)in[block * 48 + lane] / 255.0f - mean[lane]) / std[lane];
    for (int64_t at = blocks * 48; at < total; at++) out[at] = ((float)in[at] / 255.0f - mean[at % 48]) / std[at % 48];
}
