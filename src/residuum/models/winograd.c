/* 3x3 convolutions with stride 1 and a margin of one pixel, by Winograd's F(2x2, 3x3), for bfloat16 [N, H, W, C] with the
   channels innermost (channels_last). Needs AVX-512 with bfloat16 instructions. Channels are taken 32 at a time, and in
   what is transformed there are as many; those that are missing are zeros.

   Four results of 2x2 pixels, a tile, take 16 products for each pair of channels where the sum over the kernel takes 36:

       y = A' [(G w G') * (B' x B)] A      of a tile's 4x4 pixels x and the kernel w
       of_w = G' [(A of_y A') * (B' x B)] G

          ( 1  0 -1  0 )       ( 1    0    0  )        ( 1  1  1  0 )
       B' = ( 0  1  1  0 )   G = ( 1/2  1/2  1/2)   A' = ( 0  1 -1 -1 )
          ( 0 -1  1  0 )       ( 1/2 -1/2  1/2)
          ( 0  1  0 -1 )       ( 0    0    1  )

   with the products summed over channels (or, for of_w, over tiles) by one matrix product for each of the 16 places.
   Source: Lavin and Gray, arXiv:1509.09308, section 4.1.
   Transformed values are rounded to bfloat16; sums are float32. Results do not depend on the number of threads.

   A register of 32 channels in bfloat16 becomes two of float32 by a shift and a mask: the channels of even number, and
   those of odd. Transformed pictures and gradients, and sums of products of these, stay in this order: 0, 2, .. 30, 1, 3,
   .. 31 within each group of 32, the order of a split. */

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

enum {
    LANES = 16,      /* float32 values of a register */
    GROUP = 32,      /* bfloat16 values of a register */
    PLACES = 16,     /* of a transformed tile */
    PANEL = 64,      /* channels that a matrix product computes at a time, as far as there are so many: 4 registers */
    TILES = 24,      /* that are convolved together: a multiple of all heights of `block` there */
    APART = 32,      /* values between places, so that they do not meet in one set of the cache */
    CACHE = 1 << 19, /* bytes of transformed pictures and gradients that a thread multiplies at a time */
};

typedef struct {
    int64_t pictures, height, width, in_channels, high, wide, out_channels; /* high and wide are the results' */
} Convolution;

/* 32 channels: those of even number, and those of odd. */
typedef struct {
    __m512 even, odd;
} Split;

INLINE Split load_split(const bf16 *from, __mmask32 there) {
    const __m512i both = _mm512_maskz_loadu_epi16(there, from);
    return (Split){_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
                   _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)))};
}

INLINE Split plus(Split a, Split b) { return (Split){_mm512_add_ps(a.even, b.even), _mm512_add_ps(a.odd, b.odd)}; }

INLINE Split minus(Split a, Split b) { return (Split){_mm512_sub_ps(a.even, b.even), _mm512_sub_ps(a.odd, b.odd)}; }

/* Stores the even ones, and then the odd. */
INLINE void store_split(bf16 *to, Split value) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(value.odd, value.even));
}

/* a0, b0, a1, b1, ..: what one instruction multiplies and adds together. */
INLINE __m512i in_pairs(__m512 a, __m512 b) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

INLINE void store_pairs(bf16 *to, Split a, Split b) {
    _mm512_storeu_si512(to, in_pairs(a.even, b.even));
    _mm512_storeu_si512(to + GROUP, in_pairs(a.odd, b.odd));
}

INLINE __m512 load(const bf16 *from, __mmask16 there) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from)), 16));
}

/* Where in its group a channel is after the split, and which channel is in a place. */
INLINE int64_t place_of(int64_t channel) {
    return channel / GROUP * GROUP + channel % 2 * LANES + channel % GROUP / 2;
}

INLINE int64_t channel_in(int64_t place) { return place / GROUP * GROUP + place % LANES * 2 + place % GROUP / LANES; }

INLINE int64_t at_most(int64_t number, int64_t limit) { return number < limit ? number : limit; }

INLINE int64_t at_least(int64_t number, int64_t limit) { return number > limit ? number : limit; }

INLINE int64_t in_groups(int64_t channels) { return (channels + GROUP - 1) / GROUP * GROUP; }

/* Which of the 32 channels from `first` on there are. */
INLINE __mmask32 group_of(int64_t channels, int64_t first) {
    return channels - first >= GROUP ? 0xffffffff : (__mmask32)((UINT64_C(1) << at_least(channels - first, 0)) - 1);
}

INLINE int64_t tiles_across(int64_t side) { return (side + 1) / 2; }

static int64_t tiles_of(const Convolution *shape) {
    return shape->pictures * tiles_across(shape->high) * tiles_across(shape->wide);
}

/* Where a tile of results lies. */
typedef struct {
    int64_t picture, row, column;
} Tile;

INLINE Tile tile_number(const Convolution *shape, int64_t number) {
    const int64_t across = tiles_across(shape->wide), down = tiles_across(shape->high);
    return (Tile){number / (across * down), number / across % down * 2, number % across * 2};
}

INLINE Tile next_tile(const Convolution *shape, Tile tile) {
    tile.column += 2;
    if (tile.column >= shape->wide) {
        tile.column = 0;
        tile.row += 2;
        if (tile.row >= shape->high) {
            tile.row = 0;
            tile.picture++;
        }
    }
    return tile;
}

/* Finds the 4x4 pixels that a tile of results is made of in x [N, H, W, C], or its own 2x2 in the gradient of results;
   those outside the picture, and those of a tile after the last, are `zeros`. */
INLINE void find(const Convolution *shape, const int is_gradient, const bf16 *x, Tile tile, const bf16 *zeros,
                 const bf16 **found) {
    const int size = is_gradient ? 2 : 4, margin = is_gradient ? 0 : 1;
    const int64_t height = is_gradient ? shape->high : shape->height, width = is_gradient ? shape->wide : shape->width;
    const int64_t channels = is_gradient ? shape->out_channels : shape->in_channels;
    const int64_t top = tile.row - margin, left = tile.column - margin;
    const bf16 *first = x + ((tile.picture * height + top) * width + left) * channels;
    const int is_there = tile.picture < shape->pictures;
    const int is_whole = is_there && top >= 0 && left >= 0 && top + size <= height && left + size <= width;
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) {
            const int64_t row = top + i, column = left + j;
            const int is_inside = is_whole || (is_there && row >= 0 && row < height && column >= 0 && column < width);
            found[i * size + j] = is_inside ? first + (i * width + j) * channels : zeros;
        }
}

/* Row `i` of B' x B, of 32 channels. */
INLINE void row_of_picture(const bf16 *const *pixels, int64_t channel, __mmask32 there, const int i, Split v[4]) {
    Split t[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const Split one = load_split(pixels[(i == 0 ? 0 : i == 2 ? 8 : 4) + j] + channel, there);
        const Split other = load_split(pixels[(i == 3 ? 12 : i == 2 ? 4 : 8) + j] + channel, there);
        t[j] = i == 1 ? plus(one, other) : minus(one, other);
    }
    v[0] = minus(t[0], t[2]);
    v[1] = plus(t[1], t[2]);
    v[2] = minus(t[2], t[1]);
    v[3] = minus(t[1], t[3]);
}

/* Row `i` of A of_y A', of 32 channels. */
INLINE void row_of_gradient(const bf16 *const *pixels, int64_t channel, __mmask32 there, const int i, Split d[4]) {
    const Split zero = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    Split t[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        const Split one = load_split(pixels[(i == 3 ? 2 : 0) + j] + channel, there);
        const Split other = load_split(pixels[2 + j] + channel, there);
        t[j] = i == 0 ? one : i == 1 ? plus(one, other) : i == 2 ? minus(one, other) : minus(zero, one);
    }
    d[0] = t[0];
    d[1] = plus(t[0], t[1]);
    d[2] = minus(t[0], t[1]);
    d[3] = minus(zero, t[1]);
}

/* G w G' of 16 channels; w [3, 3, step]. */
INLINE void of_kernel(const float *w, int64_t step, __mmask16 there, int turned, __m512 u[PLACES]) {
    const __m512 half = _mm512_set1_ps(0.5f);
    __m512 t[12];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
        __m512 g[3];
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) g[i] = _mm512_maskz_loadu_ps(there, w + (turned ? 8 - (3 * i + j) : 3 * i + j) * step);
        const __m512 ends = _mm512_mul_ps(half, _mm512_add_ps(g[0], g[2])), middle = _mm512_mul_ps(half, g[1]);
        t[j] = g[0];
        t[3 + j] = _mm512_add_ps(ends, middle);
        t[6 + j] = _mm512_sub_ps(ends, middle);
        t[9 + j] = g[2];
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512 ends = _mm512_mul_ps(half, _mm512_add_ps(t[3 * i], t[3 * i + 2]));
        const __m512 middle = _mm512_mul_ps(half, t[3 * i + 1]);
        u[4 * i] = t[3 * i];
        u[4 * i + 1] = _mm512_add_ps(ends, middle);
        u[4 * i + 2] = _mm512_sub_ps(ends, middle);
        u[4 * i + 3] = t[3 * i + 2];
    }
}

/* c [height, width] (+)= the sums over k of a[k, row] b[k, column], in pairs of k that lie side by side in both: a at
   row * row_step + k * pair_step bfloat16 values, b [k, 2 width]. width is 16 * registers. The sums stay in
   height * registers of the 32 registers: 24 of them, or 16 where panels have to be divided into blocks without a rest. */
INLINE void block(const int height, const int registers, const bf16 *a, int64_t row_step, int64_t pair_step,
                  const bf16 *b, int64_t pairs, float *c, int64_t c_step, int add) {
    __m512 sum[24];
#pragma GCC unroll 24
    for (int row = 0; row < height; row++)
#pragma GCC unroll 4
        for (int r = 0; r < registers; r++)
            sum[row * registers + r] = add ? _mm512_loadu_ps(c + row * c_step + LANES * r) : _mm512_setzero_ps();
    for (int64_t k = 0; k < pairs; k++) {
        __m512bh right[4];
#pragma GCC unroll 4
        for (int r = 0; r < registers; r++)
            right[r] = (__m512bh)_mm512_loadu_si512(b + (k * registers + r) * 2 * LANES);
#pragma GCC unroll 24
        for (int row = 0; row < height; row++) {
            int32_t two;
            memcpy(&two, a + row * row_step + k * pair_step, sizeof two);
            const __m512bh left = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
            for (int r = 0; r < registers; r++)
                sum[row * registers + r] = _mm512_dpbf16_ps(sum[row * registers + r], left, right[r]);
        }
    }
#pragma GCC unroll 24
    for (int row = 0; row < height; row++)
#pragma GCC unroll 4
        for (int r = 0; r < registers; r++) _mm512_storeu_ps(c + row * c_step + LANES * r, sum[row * registers + r]);
}

/* The weights [D, 3, 3, C] as `winograd_convolve` reads them: [places, panels of outputs, pairs of inputs, a panel's
   outputs, 2], the inputs in the order of a split. With `turned` inputs and outputs change places and the kernel is turned
   by half, for the gradient of the inputs. */
void winograd_weights(const float *weight, int64_t in_channels, int64_t out_channels, int turned, bf16 *u) {
    const int64_t inputs = in_groups(turned ? out_channels : in_channels);
    const int64_t outputs = in_groups(turned ? in_channels : out_channels), place = inputs * outputs;
#pragma omp parallel for schedule(static)
    for (int64_t pair = 0; pair < in_groups(out_channels) / 2; pair++) {
        const int64_t one = turned ? channel_in(2 * pair) : 2 * pair, two = one + (turned ? 2 : 1);
        for (int64_t c = 0; c < in_groups(in_channels); c += LANES) {
            __m512 of_one[PLACES], of_two[PLACES];
            const __mmask16 there = (__mmask16)group_of(in_channels, c);
            of_kernel(weight + one * 9 * in_channels + c, in_channels, one < out_channels ? there : 0, turned, of_one);
            of_kernel(weight + two * 9 * in_channels + c, in_channels, two < out_channels ? there : 0, turned, of_two);
            const int64_t output = turned ? c : one, first = output / PANEL * PANEL;
            const int64_t wide = at_most(PANEL, outputs - first);
            bf16 *to = u + first * inputs + (output - first) * 2;
            for (int p = 0; p < PLACES; p++) {
                if (turned) {
                    _mm512_storeu_si512(to + p * place + pair * wide * 2, in_pairs(of_one[p], of_two[p]));
                } else {
                    bf16 values[2 * LANES];
                    _mm512_storeu_si512(values, (__m512i)_mm512_cvtne2ps_pbh(of_two[p], of_one[p]));
                    for (int64_t i = 0; i < LANES; i++) { /* pairs of inputs are two apart */
                        bf16 *at = to + p * place + place_of(c + i) / 2 * wide * 2 + place_of(c + i) % 2;
                        at[0] = values[i];
                        at[2] = values[LANES + i];
                    }
                }
            }
        }
    }
}

/* Bytes that each thread needs for `winograd_convolve`. */
int64_t winograd_scratch(const Convolution *shape) {
    const int64_t inputs = in_groups(shape->in_channels);
    return PLACES * (TILES * inputs + APART) * (int64_t)sizeof(bf16) +
           PLACES * (TILES * PANEL + APART) * (int64_t)sizeof(float) + inputs * (int64_t)sizeof(bf16);
}

/* A' m A of 16 channels: the pixels of a tile, row by row. */
INLINE void of_products(const float *m, int64_t place, __m512 y[4]) {
    __m512 t[8];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 m0 = _mm512_loadu_ps(m + j * place), m1 = _mm512_loadu_ps(m + (4 + j) * place);
        const __m512 m2 = _mm512_loadu_ps(m + (8 + j) * place), m3 = _mm512_loadu_ps(m + (12 + j) * place);
        t[j] = _mm512_add_ps(_mm512_add_ps(m0, m1), m2);
        t[4 + j] = _mm512_sub_ps(_mm512_sub_ps(m1, m2), m3);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m512 *row = t + 4 * i;
        y[2 * i] = _mm512_add_ps(_mm512_add_ps(row[0], row[1]), row[2]);
        y[2 * i + 1] = _mm512_sub_ps(_mm512_sub_ps(row[1], row[2]), row[3]);
    }
}

/* 32 channels of a tile, with what is added to them. */
INLINE void results(const Convolution *shape, const float *m, int64_t place, Tile tile, int64_t channel, const float *bias,
                    const bf16 *residual, int relu, bf16 *y) {
    const int64_t pixel = (tile.picture * shape->high + tile.row) * shape->wide + tile.column;
    __m512 low[4], high[4];
    const __mmask32 there = group_of(shape->out_channels, channel);
    const __mmask16 of_low = (__mmask16)there, of_high = (__mmask16)(there >> LANES);
    of_products(m, place, low);
    of_products(m + LANES, place, high);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (tile.row + i / 2 >= shape->high || tile.column + i % 2 >= shape->wide) continue;
        const int64_t at = (pixel + i / 2 * shape->wide + i % 2) * shape->out_channels + channel;
        if (bias) {
            low[i] = _mm512_add_ps(low[i], _mm512_maskz_loadu_ps(of_low, bias + channel));
            high[i] = _mm512_add_ps(high[i], _mm512_maskz_loadu_ps(of_high, bias + channel + LANES));
        }
        if (residual) {
            low[i] = _mm512_add_ps(low[i], load(residual + at, of_low));
            high[i] = _mm512_add_ps(high[i], load(residual + at + LANES, of_high));
        }
        if (relu) { /* of a NaN the second operand, which is the NaN */
            low[i] = _mm512_max_ps(_mm512_setzero_ps(), low[i]);
            high[i] = _mm512_max_ps(_mm512_setzero_ps(), high[i]);
        }
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high[i], low[i]);
        if (there == 0xffffffff)
            _mm512_storeu_si512(y + at, both); /* faster than with a mask */
        else
            _mm512_mask_storeu_epi16(y + at, there, both);
    }
}

/* y [N, h, w, D] = relu(conv(x [N, H, W, C], u) + bias + residual), of the first h rows and w columns of results, at most
   one more than those of x. bias (float32) and residual may be NULL, residual may be y. `scratch` is `winograd_scratch`
   bytes for each of `threads`. */
void winograd_convolve(const Convolution *shape, const bf16 *x, const bf16 *u, const float *bias, const bf16 *residual,
                       int relu, bf16 *y, char *scratch, int threads) {
    const int64_t tiles = tiles_of(shape);
    const int64_t inputs = in_groups(shape->in_channels), outputs = in_groups(shape->out_channels);
    const int64_t place = TILES * inputs + APART, place_of_m = TILES * PANEL + APART, of_each = winograd_scratch(shape);
    const int64_t blocks = (tiles + TILES - 1) / TILES, panels = (outputs + PANEL - 1) / PANEL;
    /* Where there are few blocks, so that all threads are busy, several take the same one: each some of its panels. */
    const int64_t parts = blocks < 4 * threads ? at_most(panels, threads) : 1;
#pragma omp parallel num_threads(threads)
    {
        float *m = (float *)(scratch + of_each * omp_get_thread_num()); /* [places, tiles, a panel's outputs] */
        bf16 *v = (bf16 *)(m + PLACES * place_of_m); /* [places, tiles, inputs in the order of a split] */
        bf16 *zeros = v + PLACES * place;
        memset(zeros, 0, inputs * sizeof(bf16));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < blocks * parts; task++) {
            const int64_t begin = task / parts * TILES, part = task % parts;
            Tile tile[TILES];
            tile[0] = tile_number(shape, begin);
            for (int t = 1; t < TILES; t++) tile[t] = next_tile(shape, tile[t - 1]);
            for (int64_t t = 0; t < TILES; t++) {
                const bf16 *pixels[16];
                find(shape, 0, x, tile[t], zeros, pixels);
                for (int64_t c = 0; c < inputs; c += GROUP) {
                    const __mmask32 there = group_of(shape->in_channels, c);
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        Split row[4];
                        row_of_picture(pixels, c, there, i, row);
#pragma GCC unroll 4
                        for (int j = 0; j < 4; j++) store_split(v + (4 * i + j) * place + t * inputs + c, row[j]);
                    }
                }
            }
            const int64_t count = at_most(TILES, tiles - begin);
            const int64_t from = panels * part / parts * PANEL, to = at_most(panels * (part + 1) / parts * PANEL, outputs);
            for (int64_t first = from; first < to; first += PANEL) {
                const int64_t wide = at_most(PANEL, outputs - first);
                for (int p = 0; p < PLACES; p++) {
                    const bf16 *a = v + p * place, *b = u + p * inputs * outputs + first * inputs;
                    float *c = m + p * place_of_m;
                    if (wide == PANEL)
                        for (int64_t t = 0; t < count; t += 6)
                            block(6, 4, a + t * inputs, inputs, 2, b, inputs / 2, c + t * wide, wide, 0);
                    else
                        for (int64_t t = 0; t < count; t += 12)
                            block(12, 2, a + t * inputs, inputs, 2, b, inputs / 2, c + t * wide, wide, 0);
                }
                for (int64_t t = 0; t < count; t++)
                    for (int64_t channel = 0; channel < wide; channel += GROUP)
                        results(shape, m + t * wide + channel, place_of_m, tile[t], first + channel, bias, residual, relu, y);
            }
        }
    }
}

/* How `winograd_of_weights` divides its work. The four rows of places are shared among threads, and where there are more
   than four of these, the outputs too; each thread transforms all tiles for its own places and multiplies them, so that
   it need not wait for what another writes, which is slow where cores do not share a cache. Few outputs leave the last of
   many threads without work. Neither rows nor parts nor `tiles` change a result. */
typedef struct {
    int64_t rows, parts; /* rows of places for a task; parts of the outputs */
    int64_t wide;        /* outputs of a part, at most */
    int64_t tiles;       /* at a time: few enough for the cache, of many channels more, because their sums are read and
                            written for each */
    int64_t place, place_of_d, of_each; /* values of a place; bytes of a thread */
} Division;

static Division division(const Convolution *shape, int64_t threads) {
    const int64_t inputs = in_groups(shape->in_channels), outputs = in_groups(shape->out_channels);
    const int64_t groups = outputs / GROUP;
    Division to;
    to.rows = threads >= 3 ? 1 : 4 / threads;
    to.parts = at_most(groups, (threads + 3) / 4);
    to.wide = (groups + to.parts - 1) / to.parts * GROUP;
    const int64_t channels = inputs + to.wide, bytes_of_tile = 4 * to.rows * (int64_t)sizeof(bf16) * channels;
    const int64_t wanted = at_least(CACHE / bytes_of_tile, channels / 4);
    to.tiles = at_most(wanted, tiles_of(shape) + 1) / 2 * 2;
    to.place = to.tiles * inputs + APART;
    to.place_of_d = to.tiles * to.wide + APART;
    to.of_each = 4 * to.rows * (to.place + to.place_of_d) * (int64_t)sizeof(bf16);
    return to;
}

/* Bytes that `winograd_of_weights` needs. */
int64_t winograd_scratch_of_weights(const Convolution *shape, int threads) {
    const int64_t inputs = in_groups(shape->in_channels), outputs = in_groups(shape->out_channels);
    return PLACES * inputs * outputs * (int64_t)sizeof(float) + at_least(inputs, outputs) * (int64_t)sizeof(bf16) +
           threads * division(shape, threads).of_each;
}

/* G' m G of 16 channels. */
INLINE void of_sums(const float *m, int64_t place, __m512 w[9]) {
    const __m512 half = _mm512_set1_ps(0.5f);
    __m512 t[12];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 m0 = _mm512_loadu_ps(m + j * place), m1 = _mm512_loadu_ps(m + (4 + j) * place);
        const __m512 m2 = _mm512_loadu_ps(m + (8 + j) * place), m3 = _mm512_loadu_ps(m + (12 + j) * place);
        const __m512 both = _mm512_mul_ps(half, _mm512_add_ps(m1, m2));
        t[j] = _mm512_add_ps(m0, both);
        t[4 + j] = _mm512_mul_ps(half, _mm512_sub_ps(m1, m2));
        t[8 + j] = _mm512_add_ps(m3, both);
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const __m512 *row = t + 4 * i, both = _mm512_mul_ps(half, _mm512_add_ps(row[1], row[2]));
        w[3 * i] = _mm512_add_ps(row[0], both);
        w[3 * i + 1] = _mm512_mul_ps(half, _mm512_sub_ps(row[1], row[2]));
        w[3 * i + 2] = _mm512_add_ps(row[3], both);
    }
}

/* Transforms two tiles, pair number `pair` of `tiles`, into [places of some rows, panels, pairs of tiles, a panel's
   channels, 2]; of `wanted` channels, as many as there are are `channels`. */
INLINE void transform_two(const int is_gradient, const bf16 *const *one, const bf16 *const *two, int64_t channels,
                          int64_t wanted, int64_t first_row, int64_t rows, bf16 *to, int64_t pair, int64_t tiles,
                          int64_t place) {
    for (int64_t c = 0; c < wanted; c += GROUP) {
        const int64_t first = c / PANEL * PANEL, wide = at_most(PANEL, wanted - first);
        const __mmask32 there = group_of(channels, c);
        bf16 *own = to + first * tiles + (pair * wide + c - first) * 2 - 4 * first_row * place;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            if (i < first_row || i >= first_row + rows) continue;
            Split a[4], b[4];
            if (is_gradient) {
                row_of_gradient(one, c, there, i, a);
                row_of_gradient(two, c, there, i, b);
            } else {
                row_of_picture(one, c, there, i, a);
                row_of_picture(two, c, there, i, b);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) store_pairs(own + (4 * i + j) * place, a[j], b[j]);
        }
    }
}

/* sums [outputs, inputs] (+)= of the tiles: d [panels, pairs, a panel's outputs, 2] and v [the same of inputs]. */
static void add_products(const bf16 *d, int64_t outputs, const bf16 *v, int64_t inputs, int64_t tiles, int64_t pairs,
                         float *sums, int add) {
    for (int64_t up = 0; up < outputs; up += PANEL) {
        const int64_t tall = at_most(PANEL, outputs - up);
        const bf16 *a = d + up * tiles;
        for (int64_t first = 0; first < inputs; first += PANEL) {
            const int64_t wide = at_most(PANEL, inputs - first);
            const bf16 *b = v + first * tiles;
            float *c = sums + up * inputs + first;
            if (wide == PANEL)
                for (int64_t row = 0; row < tall; row += 4)
                    block(4, 4, a + row * 2, 2, tall * 2, b, pairs, c + row * inputs, inputs, add);
            else
                for (int64_t row = 0; row < tall; row += 8)
                    block(8, 2, a + row * 2, 2, tall * 2, b, pairs, c + row * inputs, inputs, add);
        }
    }
}

/* The gradient of the weights, float32 [D, 3, 3, C], from x [N, H, W, C] and that of the results [N, h, w, D]. `scratch`
   is `winograd_scratch_of_weights` bytes. */
void winograd_of_weights(const Convolution *shape, const bf16 *x, const bf16 *gradient, float *of_weight, char *scratch,
                         int threads) {
    const int64_t tiles = tiles_of(shape);
    const int64_t inputs = in_groups(shape->in_channels), outputs = in_groups(shape->out_channels);
    const Division by = division(shape, threads);
    float *sums = (float *)scratch; /* [places, D, C], both in the order of a split */
    bf16 *zeros = (bf16 *)(sums + PLACES * inputs * outputs);
    char *others = (char *)(zeros + at_least(inputs, outputs));
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    memset(zeros, 0, at_least(inputs, outputs) * sizeof(bf16));
#pragma omp parallel num_threads(threads)
    {
        bf16 *v = (bf16 *)(others + by.of_each * omp_get_thread_num()), *d = v + 4 * by.rows * by.place;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < 4 / by.rows * by.parts; task++) {
            const int64_t row = task / by.parts * by.rows, from = task % by.parts * by.wide;
            const int64_t own = at_most(by.wide, outputs - from); /* outputs; none where parts are too many */
            Tile tile = tile_number(shape, 0);
            for (int64_t begin = 0; begin < tiles && own > 0; begin += by.tiles) {
                const int64_t pairs = (at_most(by.tiles, tiles - begin) + 1) / 2;
                for (int64_t pair = 0; pair < pairs; pair++) {
                    const Tile second = next_tile(shape, tile);
                    const bf16 *one[16], *two[16];
                    find(shape, 0, x, tile, zeros, one);
                    find(shape, 0, x, second, zeros, two);
                    transform_two(0, one, two, shape->in_channels, inputs, row, by.rows, v, pair, by.tiles, by.place);
                    find(shape, 1, gradient + from, tile, zeros, one);
                    find(shape, 1, gradient + from, second, zeros, two);
                    transform_two(1, one, two, shape->out_channels - from, own, row, by.rows, d, pair, by.tiles, by.place_of_d);
                    tile = next_tile(shape, second);
                }
                for (int64_t p = 0; p < 4 * by.rows; p++)
                    add_products(d + p * by.place_of_d, own, v + p * by.place, inputs, by.tiles, pairs,
                                 sums + ((4 * row + p) * outputs + from) * inputs, begin > 0);
            }
        }
#pragma omp for schedule(static)
        for (int64_t output = 0; output < shape->out_channels; output++)
            for (int64_t c = 0; c < inputs; c += GROUP) {
                const __mmask32 there = group_of(shape->in_channels, c);
                const float *m = sums + place_of(output) * inputs + c;
                __m512 even[9], odd[9];
                of_sums(m, inputs * outputs, even);
                of_sums(m + LANES, inputs * outputs, odd);
                for (int i = 0; i < 9; i++) {
                    float *to = of_weight + (output * 9 + i) * shape->in_channels + c;
                    _mm512_mask_storeu_ps(to, (__mmask16)there, _mm512_permutex2var_ps(even[i], low, odd[i]));
                    _mm512_mask_storeu_ps(to + LANES, (__mmask16)(there >> LANES),
                                          _mm512_permutex2var_ps(even[i], high, odd[i]));
                }
            }
    }
}
