// The functions of docs/numerics.md, section 5, and their errors, over ranges of binary32 words.
//
// Built and called by bench/function_error.py, which passes the model's own tables. `>>` of a negative number is taken
// to shift towards minus infinity, as GCC and Clang do.

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { EXP, RECIP, SQRT, RSQRT, SIGMOID, TANH };

typedef struct {
    const int64_t *c0, *c1, *c2;
} table_t;

typedef struct {
    table_t exp2, reciprocal, sqrt, rsqrt, tanh;
    int64_t log2e;
} tables_t;

typedef struct {
    uint64_t inputs;   // words looked at that are not NaN
    uint64_t normal;   // of them, those whose exact result is a normal number
    uint64_t nearest;  // of those, those that give the nearest one
    uint64_t edges;    // words that give 0, infinity or NaN and should not, or the other way round
    uint64_t steps;    // words whose result and that of the next word are in the wrong order
    uint64_t at;       // the word with the worst error
    double worst;      // that error, in units of the last place of the exact result
} summary_t;

static const uint32_t NOT_A_NUMBER = 0x7FC00000, INFINITE = 0x7F800000, ONE = 0x3F800000, HALF = 0x3F000000;

static int64_t quadratic(const table_t *table, int64_t i, int64_t t) {
    const int64_t slope = table->c1[i] + (table->c2[i] * (t >> 5) >> 16);
    return table->c0[i] + (slope * t >> 21);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// `value` rounded to 24 bits, ties to even, by dropping `drop` of them.
static uint32_t pack(uint32_t sign, int64_t field, int64_t value, int drop) {
    const int64_t rest = value & ((1 << drop) - 1), half = 1 << (drop - 1);
    int64_t kept = value >> drop;
    if (field < 1) return sign << 31;
    kept += rest > half || (rest == half && (kept & 1));
    const int64_t word = ((field - 1) << 23) + kept;  // the hidden bit adds the one that is missing
    return sign << 31 | (uint32_t)least(word, INFINITE);
}

// 2^(W + F - 30) = q * 2^(W - 30) for y = W + F, the latter with 28 bits behind the point.
static int64_t power(const tables_t *tables, int64_t y, int64_t *whole) {
    *whole = y >> 28;
    const int64_t part = y & ((1 << 28) - 1);
    return most(quadratic(&tables->exp2, part >> 21, part & ((1 << 21) - 1)), 1 << 30);
}

static uint32_t evaluate(int function, const tables_t *tables, uint32_t word) {
    const uint32_t s = word >> 31;
    const int64_t e = word >> 23 & 0xFF, f = word & 0x7FFFFF, m = f | 1 << 23;
    int64_t whole, v;
    if (e == 255 && f) return NOT_A_NUMBER;
    switch (function) {
    case EXP: {
        if (e == 0) return ONE;
        if (e >= 134) return s ? 0 : INFINITE;
        const int64_t n = m * tables->log2e >> least(155 - e, 62);
        v = power(tables, s ? -n : n, &whole);
        return pack(0, whole + 127, v, 7);
    }
    case RECIP:
        if (e == 0) return s << 31 | INFINITE;
        if (e == 255) return s << 31;
        if (f == 0) return s << 31 | (uint32_t)(e == 254 ? 0 : (254 - e) << 23);
        v = least(quadratic(&tables->reciprocal, f >> 16, (f & 0xFFFF) << 5), (1 << 30) - 1);
        return pack(s, 253 - e, v, 6);
    case SQRT:
        if (e == 0) return s << 31;
        if (s) return NOT_A_NUMBER;
        if (e == 255) return INFINITE;
        v = most(quadratic(&tables->sqrt, (e & 1 ? 0 : 64) + (f >> 17), (f & 0x1FFFF) << 4), 1 << 30);
        return pack(0, (e + 127) >> 1, v, 7);
    case RSQRT: {
        if (e == 0) return s << 31 | INFINITE;
        if (s) return NOT_A_NUMBER;
        if (e == 255) return 0;
        const int64_t odd = !(e & 1);
        v = f >> 22 ? quadratic(&tables->rsqrt, 128 + 32 * odd + (f >> 17 & 31), (f & 0x1FFFF) << 4)
                    : quadratic(&tables->rsqrt, 64 * odd + (f >> 16), (f & 0xFFFF) << 5);
        return pack(0, 253 - ((e + 127) >> 1), least(v, (1 << 30) - 1), 6);
    }
    case TANH:
        if (e == 0) return s << 31;
        if (e < 126 || (e == 126 && f < 1 << 21)) {
            const int64_t u = m * m >> least(272 - 2 * e, 62);
            const int64_t h = quadratic(&tables->tanh, u >> 21, u & ((1 << 21) - 1)) >> 3, p = m * h;
            return p >> 50 ? pack(s, e, p >> 21, 6) : pack(s, e - 1, p >> 20, 6);
        }
        if (e >= 133) return s << 31 | ONE;
        break;
    case SIGMOID:
        if (e == 0) return HALF;
        if (e >= 134) return s ? 0 : ONE;
        break;
    }
    const int64_t n = m * tables->log2e >> least(155 - e - (function == TANH), 62);
    const int64_t q = power(tables, function == SIGMOID && s ? n : -n, &whole);
    const int64_t d = whole < 0 ? (1 << 30) + (q >> least(-whole, 31)) : q + ((1 << 30) >> least(whole, 31));
    const int64_t carry = d >> 31, z = d >> (2 + carry) & ((1 << 28) - 1);
    v = least(quadratic(&tables->reciprocal, z >> 21, z & ((1 << 21) - 1)), (1 << 30) - 1);
    if (function == TANH) return pack(s, 126, 2 * v - (1 << 30), 6);
    return pack(0, 126 - most(whole, 0) - carry, v, 6);
}

static double exact(int function, double x) {
    switch (function) {
    case EXP: return exp(x);
    case RECIP: return 1 / x;
    case SQRT: return sqrt(x);
    case RSQRT: return 1 / sqrt(x);
    case SIGMOID: return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
    default: return tanh(x);
    }
}

static float number(uint32_t word) {
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

// Results of `count` words.
void results(int function, const tables_t *tables, const uint32_t *words, uint32_t *found, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) found[i] = evaluate(function, tables, words[i]);
}

// The words start .. stop - 1, of one sign. Neighbours are compared up to the word `stop`.
void measure(int function, const tables_t *tables, uint64_t start, uint64_t stop, summary_t *s) {
    const double smallest = 0x1p-126, beyond = 0x1.ffffffp127;
    const int falling = (function == RECIP || function == RSQRT) != (start >= 1ull << 31);
    uint32_t next = evaluate(function, tables, (uint32_t)start);
    for (uint64_t word = start; word < stop; word++) {
        const uint32_t found_word = next;
        const int last = (word & 0x7FFFFFFF) == INFINITE;
        next = evaluate(function, tables, (uint32_t)(word + 1));
        if ((word & 0x7FFFFFFF) > INFINITE) {
            s->edges += found_word != NOT_A_NUMBER;
            continue;
        }
        s->inputs++;
        const uint32_t read = word & 0x7F800000 ? (uint32_t)word : (uint32_t)word & 1u << 31;  // subnormals are zeros
        const float found = number(found_word), after = number(next);
        s->steps += !last && (falling ? after > found : after < found);
        const double reference = exact(function, number(read)), magnitude = fabs(reference);
        const int normal = magnitude >= smallest && magnitude < beyond;
        const int usual = isfinite(found) && found != 0;
        s->edges += normal != usual || !isnan(found) != !isnan(reference) || (!usual && !isnan(found) &&
                    (!signbit(found) != !signbit(reference) || !isinf(found) != !(magnitude >= beyond)));
        s->normal += normal;
        if (!normal || !usual) continue;
        s->nearest += found == (float)reference;
        // Units of the last place: 2^-23 of the binade of the reference, by its exponent field.
        uint64_t field;
        double unit;
        memcpy(&field, &magnitude, sizeof field);
        field = ((field >> 52) - 23) << 52;
        memcpy(&unit, &field, sizeof unit);
        const double error = fabs(found - reference) / unit;
        if (error > s->worst) s->worst = error, s->at = word;
    }
}
