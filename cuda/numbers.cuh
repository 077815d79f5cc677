// The arithmetic of a draw, on plain numbers: keys, weights, parts, random bits. docs/sampling.md is its contract, and
// rust/src/sampler holds the same steps: what is written here must give the same bits.
//
// Each line of float arithmetic is one float32 operation, rounded to nearest. Compile with --fmad=false (kernels/nvrtc.py
// does), so that no multiplication is fused with an addition.
#pragma once

using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
using i64 = long long;

// --- logits -------------------------------------------------------------------------------------------

constexpr float MAX_LOGIT = 3.4028234663852886e38f;
/// The key of -inf and of NaN: nothing sorts below it.
constexpr u32 IMPOSSIBLE = 0x007FFFFF;

/// +inf counts as the largest float; NaN stays what it is.
__device__ inline float bounded(float logit) { return logit > MAX_LOGIT ? MAX_LOGIT : logit; }

/// Sorts logits as unsigned numbers. -0.0 becomes 0.0, which it equals.
__device__ inline u32 key_of(float logit) {
    if (logit != logit) return IMPOSSIBLE;
    u32 bits = __float_as_uint(logit + 0.0f);
    return bits >> 31 ? ~bits : bits | 1u << 31;
}

/// The logit that a key stands for.
__device__ inline float logit_of(u32 key) { return __uint_as_float(key >> 31 ? key ^ 1u << 31 : ~key); }

/// Element types of logits.
enum Kind : u32 { F32 = 0, F16 = 1, BF16 = 2 };

/// Bytes of one logit.
__device__ constexpr u32 size_of(u32 kind) { return kind == F32 ? 4 : 2; }

/// Half precision is widened exactly.
__device__ inline float widened(u32 kind, u32 bits) {
    if (kind == F32) return __uint_as_float(bits);
    if (kind == BF16) return __uint_as_float(bits << 16);
    u32 sign = (bits & 0x8000) << 16, rest = bits & 0x7FFF;
    // The exponent of float16 is biased by 15, that of float32 by 127; the product is exact for subnormals too.
    float finite = __uint_as_float(rest << 13) * __uint_as_float((127 + 112) << 23);
    u32 magnitude = rest >= 0x7C00 ? 0x7F800000 | (rest & 0x3FF) << 13 : __float_as_uint(finite);
    return __uint_as_float(sign | magnitude);
}

/// One logit of a row in the caller's memory; +inf is the largest float.
__device__ inline float logit_at(u32 kind, const void* row, u32 id) {
    return bounded(widened(kind, kind == F32 ? static_cast<const u32*>(row)[id] : static_cast<const unsigned short*>(row)[id]));
}

// --- weights ------------------------------------------------------------------------------------------

/// `value`, or `bound` where it is smaller or NaN.
__device__ inline float at_least(float value, float bound) { return value > bound ? value : bound; }

/// e^x * 2^31 for -24 <= x <= 0.
__device__ inline float power(float x) {
    constexpr float MAGIC = 12582912.0f;
    float shifted = x * 1.44269504f + MAGIC;
    float n = shifted - MAGIC;
    float r = (x - n * 0.693359375f) - n * -2.1219444e-4f;
    float q = (((0.0013814541f * r + 0.008368745f) * r + 0.04166839f) * r + 0.16666521f) * r + 0.49999994f;
    float e = ((q * r) * r + r) + 1.0f;
    return __uint_as_float(__float_as_uint(e) + (__float_as_uint(shifted) << 23) + (31u << 23));
}

/// Where the distances of one row are measured from.
struct Scale {
    float peak;
    /// 1 / temperature.
    float inverse;

    /// Distance of a logit from the maximum, at least -24: what is further away weighs nothing.
    __device__ float distance(u32 key) const { return at_least((logit_of(key) - peak) * inverse, -24.0f); }

    /// Integer mass of a logit: floor(2^31 e^x).
    __device__ u32 weight(u32 key) const { return static_cast<u32>(power(distance(key))); }

    /// Information content in units of 2^-20, up to the logarithm of the mass, which is the same for all.
    __device__ u32 surprise(u32 key) const { return static_cast<u32>(distance(key) * -1048576.0f); }
};

// --- parts of a mass ----------------------------------------------------------------------------------

constexpr u64 WHOLE = 1ull << 32;

/// How much of `mass` the part `part` / 2^32 is, rounded up and at least one.
__device__ inline u64 part_of(u64 mass, u64 part) {
    u64 need = (mass >> 32) * part + (((mass & 0xFFFFFFFF) * part + 0xFFFFFFFF) >> 32);
    return need ? need : 1;
}

/// The high half of a product.
__device__ inline u64 high_product(u64 a, u64 b) {
    u64 a0 = a & 0xFFFFFFFF, a1 = a >> 32, b0 = b & 0xFFFFFFFF, b1 = b >> 32;
    u64 middle = a1 * b0 + ((a0 * b0) >> 32);
    return a1 * b1 + (middle >> 32) + ((a0 * b1 + (middle & 0xFFFFFFFF)) >> 32);
}

/// (high * 2^32 + low) / divisor, rounded down; the quotient fits 32 bits, the divisor 62.
__device__ inline u32 quotient(u64 high, u64 low, u64 divisor) {
    u64 rest = high + (low >> 32);
    u32 result = 0;
    for (u32 bit = 32; bit-- > 0;) {
        rest = rest << 1 | (low >> bit & 1);
        result <<= 1;
        if (rest >= divisor) {
            rest -= divisor;
            result |= 1;
        }
    }
    return result;
}

// --- random bits --------------------------------------------------------------------------------------

/// Philox 4x32-10 (Salmon et al. 2011), words 0 and 1 of the block. Key: the seed, low word first. Counter: (position,
/// choice, purpose, 0); the purpose of a draw is 0. Nothing else enters, least of all the row.
__device__ inline u64 random_bits(u64 seed, u32 position, u32 choice) {
    u32 counter[4] = {position, choice, 0, 0};
    u32 key[2] = {static_cast<u32>(seed), static_cast<u32>(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        u64 left = 0xD2511F53ull * counter[0], right = 0xCD9E8D57ull * counter[2];
        u32 next[4] = {static_cast<u32>(right >> 32) ^ counter[1] ^ key[0], static_cast<u32>(right),
                       static_cast<u32>(left >> 32) ^ counter[3] ^ key[1], static_cast<u32>(left)};
        for (int word = 0; word < 4; ++word) counter[word] = next[word];
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return counter[0] | static_cast<u64>(counter[1]) << 32;
}
