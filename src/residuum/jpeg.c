/* A part of a JPEG, to the bits that a full decode by the same libjpeg-turbo has there.

   The library is the one that Pillow has loaded; its functions come from the caller, in a table. Its structures are
   declared here as version 6.2 of its binary interface lays them out on machines with 64-bit pointers, as far as they
   are used; the library itself compares version and size with its own and refuses others. No state outlives a call.
   Source: ITU-T T.81, annex B (the markers); libjpeg-turbo's doc/libjpeg.txt, "Partial image decompression". */

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void (*error_exit)(void *);
    void (*emit_message)(void *, int);
    void (*output_message)(void *);
    char others[512]; /* fewer are used */
    jmp_buf back;     /* ours */
} Errors;

typedef struct {
    const uint8_t *next;
    size_t left;
    void (*init)(void *);
    int (*fill)(void *);
    void (*skip)(void *, long);
    int (*resync)(void *, int);
    void (*term)(void *);
} Source;

typedef struct {
    Errors *errors;
    void *memory, *progress, *client;
    int is_decompressor, state;
    Source *source;
    unsigned image_width, image_height;
    int components, stored_space, out_space;
    unsigned scale_numerator, scale_denominator;
    double gamma;
    int switches[12];
    unsigned width, height;
    int out_components, others[3];
    void *colormap;
    unsigned row, counts[4];
    int (*known_bits)[64]; /* of each component's coefficients, while a progressive picture arrives; else NULL */
    char rest[432];
} Decoder;

_Static_assert(sizeof(void *) == 8 && sizeof(Decoder) == 632 && sizeof(Source) == 56, "another binary interface");
_Static_assert(offsetof(Decoder, width) == 136 && offsetof(Decoder, known_bits) == 192, "another binary interface");

enum { VERSION = 62, GREY = 1, RGB = 2 };

/* What is used of the library, in the order of the table that the caller fills. */
typedef struct {
    Errors *(*std_error)(Errors *);
    void (*create)(Decoder *, int, size_t);
    void (*destroy)(Decoder *);
    int (*read_header)(Decoder *, int);
    int (*start)(Decoder *);
    void (*crop)(Decoder *, unsigned *, unsigned *);
    unsigned (*skip)(Decoder *, unsigned);
    unsigned (*read)(Decoder *, uint8_t **, unsigned);
    int (*resync)(void *, int);
} Library;

static void give_up(void *decoder) { longjmp(((Decoder *)decoder)->errors->back, 1); }

static void message(void *decoder, int level) {
    if (level < 0) give_up(decoder); /* a warning: the data are damaged */
}

static void nothing(void *decoder) { (void)decoder; }

static int no_more(void *decoder) {
    (void)decoder;
    return 0;
}

static void skip_bytes(void *decoder, long count) {
    Source *source = ((Decoder *)decoder)->source;
    if (count <= 0) return;
    if ((size_t)count > source->left) give_up(decoder);
    source->next += count;
    source->left -= (size_t)count;
}

static int begins(const uint8_t *body, int64_t length, const char *with, int64_t count) {
    return length >= count && !memcmp(body, with, (size_t)count);
}

/* Whether a segment is one that no reader of headers stumbles over: 1; that one has to be read by Pillow, because it
   may say which way up the picture is or that there are several: 2; or neither: 0. */
static int segment(int marker, const uint8_t *body, int64_t length) {
    if (marker == 0xE0) return begins(body, length, "JFIF", 4) ? length >= 14 : 1;
    if (marker == 0xE1 || marker == 0xED) return 2;
    if (marker == 0xE2) return begins(body, length, "MPF", 4) ? 2 : !begins(body, length, "ICC_PROFILE", 12) || length > 14;
    if (marker == 0xEE) return !begins(body, length, "Adobe", 5) || length >= 12;
    return marker == 0xC4 || marker == 0xDB || marker == 0xDD || marker == 0xFE || (marker > 0xE2 && marker < 0xF0);
}

/* Reads the header of a JPEG up to its first scan. Returns 0 where it is an ordinary one: 8 bits, Huffman-coded, grey or
   of three components of which only the first may be finer than the others, its segments one right behind the other.
   Writes width, height, components, where the scan's data begin, and whether Pillow has to read the header too. */
int header(const uint8_t *data, int64_t length, int64_t *facts) {
    int64_t at = 2;
    memset(facts, 0, 5 * sizeof *facts);
    if (length < 4 || data[0] != 0xFF || data[1] != 0xD8) return 1;
    for (;;) {
        if (at + 4 > length || data[at] != 0xFF) return 1;
        const int marker = data[at + 1];
        const int64_t size = data[at + 2] << 8 | data[at + 3];
        const uint8_t *body = data + at + 4;
        if (size < 2 || at + 2 + size > length) return 1;
        at += 2 + size;
        if (marker >= 0xC0 && marker <= 0xC2) {
            if (facts[2] || size < 8 || body[0] != 8 || (body[5] != 1 && body[5] != 3) || size != 8 + 3 * body[5]) return 1;
            facts[1] = body[1] << 8 | body[2];
            facts[0] = body[3] << 8 | body[4];
            facts[2] = body[5];
            if (!facts[0] || !facts[1]) return 1;
            const int across = body[7] >> 4, down = body[7] & 15;
            if (across < 1 || down < 1 || across > 2 || down > 2 || (body[5] == 1 && body[7] != 0x11)) return 1;
            for (int component = 1; component < body[5]; component++)
                if (body[7 + 3 * component] != 0x11) return 1;
        } else if (marker == 0xDA) {
            facts[3] = at;
            return !facts[2];
        } else {
            const int kind = segment(marker, body, size - 2);
            if (!kind) return 1;
            if (kind == 2) facts[4] = 1;
        }
    }
}

/* Whether the data from `at` on go on to the end of the picture, with no other marker before it than restarts. */
static int has_end(const uint8_t *data, int64_t length, int64_t at) {
    while (at + 1 < length) {
        const uint8_t *found = memchr(data + at, 0xFF, (size_t)(length - 1 - at));
        if (!found) return 0;
        if (found[1] == 0xD9) return 1;
        if (found[1] != 0 && found[1] != 0xFF && (found[1] < 0xD0 || found[1] > 0xD7)) return 0;
        at = found - data + (found[1] == 0xFF ? 1 : 2);
    }
    return 0;
}

/* Whether every coefficient that smoothing would guess at has all of its bits. */
static int is_complete(const Decoder *decoder) {
    if (decoder->known_bits)
        for (int component = 0; component < decoder->components; component++)
            for (int number = 0; number < 64; number++)
                if (decoder->known_bits[component][number]) return 0;
    return 1;
}

/* Decodes the columns from `left` to before `right` and the rows from `top` to before `bottom` of a JPEG at 1 /
   `denominator` of its size, which is width x height there, into `out`, [bottom - top, right - left, 1 or 3]. `scan` is
   where its header ends. `left` lies on the border between two groups of blocks; rows from `first` on are decoded, and
   thrown away before `top`. Returns 0; or 1 where anything at all is out of order, in these rows or before them, or
   where the data do not go on to the end of the picture: then `out` means nothing. */
int part(const Library *library, const uint8_t *data, int64_t length, int64_t scan, int denominator, int width, int height,
         int channels, int left, int first, int top, int right, int bottom, uint8_t *out) {
    Decoder decoder;
    Errors errors;
    Source source = {data, (size_t)length, nothing, no_more, skip_bytes, library->resync, nothing};
    volatile int failed = 1;
    if (left < 0 || first < 0 || top < first || right <= left || bottom <= top || right > width || bottom > height) return 1;
    memset(&decoder, 0, sizeof decoder);
    decoder.errors = library->std_error(&errors);
    errors.error_exit = give_up;
    errors.emit_message = message;
    errors.output_message = nothing;
    if (!setjmp(errors.back)) {
        library->create(&decoder, VERSION, sizeof decoder);
        decoder.source = &source;
        if (library->read_header(&decoder, 1) != 1) goto done;
        decoder.out_space = channels == 3 ? RGB : GREY;
        decoder.scale_numerator = 1;
        decoder.scale_denominator = (unsigned)denominator;
        if (!library->start(&decoder) || !is_complete(&decoder)) goto done;
        if (decoder.width != (unsigned)width || decoder.height != (unsigned)height || decoder.out_components != channels)
            goto done;
        unsigned from = (unsigned)left, wide = (unsigned)(right - left);
        library->crop(&decoder, &from, &wide);
        if (from != (unsigned)left || wide != (unsigned)(right - left)) goto done;
        if (first && library->skip(&decoder, (unsigned)first) != (unsigned)first) goto done;
        while (decoder.row < (unsigned)bottom) {
            const int64_t row = (int64_t)decoder.row - top;
            uint8_t *into = out + (row < 0 ? 0 : row) * wide * channels;
            if (library->read(&decoder, &into, 1) != 1) goto done;
        }
        /* The decoder may have looked ahead, to the marker that ends the data; a progressive one has read them all. */
        const int64_t at = source.next - data - 16;
        failed = !decoder.known_bits && !has_end(data, length, at > scan ? at : scan);
    }
done:
    library->destroy(&decoder);
    return failed;
}
