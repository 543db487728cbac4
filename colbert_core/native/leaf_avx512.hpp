// The vector class of AVX-512 F/BW/VL/VNNI/VBMI. vpdpbusd multiplies unsigned by signed bytes into
// int32 without saturating. Stored levels are biased by 128 to be the unsigned side; centroids are
// read as they are (signed) against the biased query, so that the table needs no second copy.
#pragma once

#include <immintrin.h>

#include "leaf_kernels.hpp"

namespace tartan {
namespace {

// The accumulators have the type that the instruction has: through __m512i, gcc 12 copies every one
// of them in every step.
typedef int32_t Int16 __attribute__((vector_size(64)));

// What the bytes of eight eight-byte lanes are taken from, and from which bit on.
struct Spread {
  alignas(64) uint8_t bytes[64] = {};
  alignas(64) uint8_t bits[64] = {};

  explicit constexpr Spread(int width) {
    for (int i = 0; i < 64; ++i) {
      bytes[i] = static_cast<uint8_t>(i / 8 * width + i % 8);
      bits[i] = static_cast<uint8_t>(window_at(width, i % 8));
    }
  }
};

struct Avx512 {
  using I = Int16;
  using F = __m512;
  using F16 = __m512;
  using Quads = Int16;
  using Row = Int16;
  using Bytes = __m256i;
  using Table = __m256i;
  using Windows = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kBias = 128;
  static constexpr bool kScansRows = false;
  static constexpr bool kTwoQuads = false;
  static constexpr size_t kBytes = 32;
  template <int G>
  static constexpr int kTile = 8;

  static I splat_i(int32_t value) { return I(_mm512_set1_epi32(value)); }
  static I bias_correction(const int32_t* sums) { return I(_mm512_loadu_si512(sums)) * -kBias; }
  static int query_bias(const QueryPlane& plane) { return plane.bias; }

  template <bool kLevels>
  static const uint8_t* query_side(const QueryPlane& plane) {
    return kLevels ? reinterpret_cast<const uint8_t*>(plane.i8) : plane.u8;
  }
  static Quads load_quads(const uint8_t* p) { return Quads(_mm512_loadu_si512(p)); }
  static Row load_row(const uint8_t* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return Row(_mm512_set1_epi32(quad));
  }
  template <bool kLevels>
  static I dot(I acc, Quads q, Row row) {
    return kLevels ? I(_mm512_dpbusd_epi32(__m512i(acc), __m512i(row), __m512i(q)))
                   : I(_mm512_dpbusd_epi32(__m512i(acc), __m512i(q), __m512i(row)));
  }

  static F splat(float value) { return _mm512_set1_ps(value); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F value) { _mm512_storeu_ps(p, value); }
  static void store_i16(int16_t* p, F value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(value)));
  }
  static F to_float(I value) { return _mm512_cvtepi32_ps(__m512i(value)); }
  static F widen(const int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static uint32_t greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }

  static F16 load_f16(const float* p) { return _mm512_loadu_ps(p); }
  static F lookup_f(F16 table, const uint8_t* indices) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(indices));
    return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(bytes), table);
  }

  static Bytes load_bytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_bytes(uint8_t* p, Bytes value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), value);
  }
  template <int kWidth>
  static Bytes field(Bytes value, int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(value, shift), _mm256_set1_epi8((1 << kWidth) - 1));
  }
  static Bytes join(Bytes low_two, Bytes high) {
    return _mm256_or_si256(low_two, _mm256_slli_epi16(high, 2));
  }
  static Table load_table(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Bytes lookup(Table table, Bytes index) { return _mm256_shuffle_epi8(table, index); }

  static Windows load_windows(const uint8_t* p) { return _mm512_loadu_si512(p); }
  // 64 dimensions at a time: every eight of them get their bytes and the one before, in eight
  // bytes; each then takes the eight bits from where its window begins, of which the look-up uses
  // the lowest six. Before a token's first byte are zeros.
  template <int kBits>
  static void windows(const uint8_t* packed, size_t dim, Windows table, uint8_t* out) {
    static constexpr Spread kSpread(kBits);
    const __m512i bytes_of = _mm512_load_si512(kSpread.bytes);
    const __m512i bits_of = _mm512_load_si512(kSpread.bits);
    const auto store = [&](size_t d, __m512i bytes) {
      const __m512i spread = _mm512_permutexvar_epi8(bytes_of, bytes);
      const __m512i window = _mm512_multishift_epi64_epi8(bits_of, spread);
      _mm512_storeu_si512(out + d, _mm512_permutexvar_epi8(window, table));
    };
    store(0, load_spread<kBits>(packed - 1, ~uint64_t{1}));
    for (size_t d = 64; d < dim; d += 64) {
      store(d, load_spread<kBits>(packed + d / 8 * kBits - 1, ~uint64_t{0}));
    }
  }

 private:
  // The bytes of 64 dimensions and the one before, and no more than that takes: what lies behind
  // may not be in a cache yet.
  template <int kBits>
  static __m512i load_spread(const uint8_t* p, uint64_t wanted) {
    if constexpr (kBits == 1) {
      return _mm512_zextsi128_si512(_mm_maskz_loadu_epi8(static_cast<__mmask16>(wanted), p));
    } else if constexpr (kBits <= 3) {
      return _mm512_zextsi256_si512(_mm256_maskz_loadu_epi8(static_cast<__mmask32>(wanted), p));
    } else {
      return _mm512_maskz_loadu_epi8(wanted, p);
    }
  }
};

}  // namespace
}  // namespace tartan
