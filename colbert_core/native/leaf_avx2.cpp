// AVX2. A register has eight lanes, and is a vector: a query of five tokens takes a quarter of the
// multiplications that one of 32 does. There is no VNNI: centroids are multiplied with the query's
// coarse plane, biased to be unsigned, by vpmaddubsw, which adds two products in an int16. As that
// plane lies within ±32, four products fit (query_pack.hpp), so that they are widened only then:
// five instructions for 64 products. Both planes at once are int16, and take eight (vpmaddwd).
#include <immintrin.h>

#include "leaf_kernels.hpp"

namespace tartan {
namespace {

// Accumulators have a type of their own: through __m256i, gcc 12 copies every one of them in every
// step.
typedef int32_t Int8 __attribute__((vector_size(32)));

// Bytes, and what residuals are looked up in.
struct Avx2Bytes {
  using Bytes = __m256i;
  using Table = __m256i;
  struct Windows {
    __m256i quarter[4];
  };
  static constexpr size_t kBytes = 32;

  static __m128i load_sixteen(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
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

  static Windows load_windows(const uint8_t* p) {
    Windows table;
    for (int i = 0; i < 4; ++i) {
      const auto* const quarter = reinterpret_cast<const __m128i*>(p + 16 * i);
      table.quarter[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128(quarter));
    }
    return table;
  }
  // 32 dimensions at a time, 16 in each half of a register: the two bytes that hold a window, and
  // a multiplication that shifts it to their top.
  template <int kBits>
  static void windows(const uint8_t* packed, size_t dim, const Windows& table, uint8_t* out) {
    static constexpr Pairs kFirst(kBits, 0), kLast(kBits, 8);
    const Bytes first_bytes = load_half(kFirst.bytes), first_shift = load_half(kFirst.shift);
    const Bytes last_bytes = load_half(kLast.bytes), last_shift = load_half(kLast.shift);
    for (size_t d = 0; d < dim; d += 32) {
      const uint8_t* const at = packed + d / 8 * kBits;
      const __m128i low = d > 0 ? load_sixteen(at - 1) : _mm_slli_si128(load_sixteen(at), 1);
      const Bytes bytes =
          _mm256_inserti128_si256(_mm256_castsi128_si256(low), load_sixteen(at + 2 * kBits - 1), 1);
      const Bytes index = _mm256_packus_epi16(window_of(bytes, first_bytes, first_shift),
                                              window_of(bytes, last_bytes, last_shift));
      store_bytes(out + d, lookup_64(table, index));
    }
  }

 private:
  // For eight dimensions, the two bytes that each is taken from and what they are multiplied by.
  struct Pairs {
    alignas(16) uint8_t bytes[16] = {};
    alignas(16) uint8_t shift[16] = {};  // int16, lowest byte first

    constexpr Pairs(int bits, int first) {
      for (int i = 0; i < 8; ++i) {
        const int at = window_at(bits, first + i);
        const int factor = 1 << (16 - kTrellisWindow - at % 8);
        bytes[2 * i] = static_cast<uint8_t>(at / 8);
        bytes[2 * i + 1] = static_cast<uint8_t>(at / 8 + 1);
        shift[2 * i] = static_cast<uint8_t>(factor & 255);
        shift[2 * i + 1] = static_cast<uint8_t>(factor >> 8);
      }
    }
  };
  static Bytes load_half(const uint8_t* p) { return _mm256_broadcastsi128_si256(load_sixteen(p)); }
  static __m256i window_of(Bytes bytes, Bytes pair, Bytes shift) {
    const __m256i at_top = _mm256_mullo_epi16(_mm256_shuffle_epi8(bytes, pair), shift);
    return _mm256_srli_epi16(at_top, 16 - kTrellisWindow);
  }
  static Bytes lookup_64(const Windows& table, Bytes index) {
    const Bytes odd_quarter = _mm256_slli_epi16(index, 3);
    const Bytes upper_half = _mm256_slli_epi16(index, 2);
    const auto half = [&](int i) {
      return _mm256_blendv_epi8(_mm256_shuffle_epi8(table.quarter[i], index),
                                _mm256_shuffle_epi8(table.quarter[i + 1], index), odd_quarter);
    };
    return _mm256_blendv_epi8(half(0), half(2), upper_half);
  }
};

// Eight lanes, to multiply with.
struct Avx2 : Avx2Bytes {
  using I = Int8;
  using F = __m256;
  using Quads = __m256i;
  using Row = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kBias = 128;
  static constexpr bool kScansRows = true;
  static constexpr bool kTwoQuads = true;
  template <int G>
  static constexpr int kTile = G == 1   ? 8
                               : G == 2 ? 4
                                        : 2;

  static I splat_i(int32_t value) { return I(_mm256_set1_epi32(value)); }
  static I bias_correction(const int32_t* sums) {
    return I(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums))) * -kBias;
  }
  static int query_bias(const QueryPlane& plane) { return plane.bias; }

  template <bool kLevels>
  static const uint8_t* query_side(const QueryPlane& plane) {
    return kLevels ? reinterpret_cast<const uint8_t*>(plane.i8) : plane.u8;
  }
  static Quads load_quads(const uint8_t* p) { return load_bytes(p); }
  static Row load_row(const uint8_t* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
  }
  template <bool kLevels>
  static I dot_two(I acc, Quads q, Quads more, Row row, Row next) {
    const __m256i fours =
        kLevels ? _mm256_add_epi16(_mm256_maddubs_epi16(row, q), _mm256_maddubs_epi16(next, more))
                : _mm256_add_epi16(_mm256_maddubs_epi16(q, row), _mm256_maddubs_epi16(more, next));
    return acc + I(_mm256_madd_epi16(fours, _mm256_set1_epi16(1)));
  }

  // Σ_d row[d] · q[d], of a centroid's bytes and of levels as unpacked. `dim` is a multiple of 8,
  // and q is zero from there to the next multiple of 16.
  static void lane_dots(const uint8_t* centroid, const uint8_t* levels, const int16_t* q,
                        size_t dim, int64_t& of_centroid, int64_t& of_levels) {
    of_centroid = of_levels = 0;
    for (size_t begin = 0; begin < dim; begin += kPairDims) {
      const size_t end = dim - begin > kPairDims ? begin + kPairDims : dim;
      __m256i sum = _mm256_setzero_si256(), level_sum = sum;
      const auto add = [&](__m128i of_row, __m128i biased, size_t d) {
        const __m256i query = load_bytes(reinterpret_cast<const uint8_t*>(q + d));
        const __m128i of_level = _mm_xor_si128(biased, _mm_set1_epi8(static_cast<char>(kBias)));
        const __m256i products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(of_row), query);
        const __m256i level_products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(of_level), query);
        sum = _mm256_add_epi32(sum, products);
        level_sum = _mm256_add_epi32(level_sum, level_products);
      };
      const auto load_eight = [](const uint8_t* p) {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
      };
      size_t d = begin;
      for (; d + 16 <= end; d += 16) add(load_sixteen(centroid + d), load_sixteen(levels + d), d);
      if (d < end) add(load_eight(centroid + d), load_eight(levels + d), d);
      const __m256i pairs = _mm256_hadd_epi32(sum, level_sum);
      const __m128i fours =
          _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
      const __m128i both = _mm_hadd_epi32(fours, fours);
      of_centroid += _mm_cvtsi128_si32(both);
      of_levels += _mm_extract_epi32(both, 1);
    }
  }

  static F splat(float value) { return _mm256_set1_ps(value); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F value) { _mm256_storeu_ps(p, value); }
  static void store_i16(int16_t* p, F value) {
    const __m256i whole = _mm256_cvtps_epi32(value);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
  }
  static F load_i16(const int16_t* p) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight));
  }
  static F to_float(I value) { return _mm256_cvtepi32_ps(__m256i(value)); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static uint32_t greater(F a, F b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
  }
  static uint32_t at_least(F a, F b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
  }
};

// Sixteen lanes, to decode and to rotate with.
struct Avx2Wide : Avx2Bytes {
  struct F {
    __m256 a, b;
  };
  using F16 = F;
  static constexpr int kLanes = 16;

  static F splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F value) {
    _mm256_storeu_ps(p, value.a);
    _mm256_storeu_ps(p + 8, value.b);
  }
  static F widen(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  static F add(F a, F b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }

  static F16 load_f16(const float* p) { return load(p); }
  static F lookup_f(F16 table, const uint8_t* indices) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(indices));
    return {lookup_eight(table, _mm256_cvtepu8_epi32(bytes)),
            lookup_eight(table, _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
  }

 private:
  static __m256 lookup_eight(F16 table, __m256i index) {
    const __m256 upper_half = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.a, index),
                            _mm256_permutevar8x32_ps(table.b, index), upper_half);
  }
};

constexpr Leaf kLeaf = make_leaf<Avx2, Avx2Wide>("avx2");

}  // namespace

const Leaf& leaf_avx2() { return kLeaf; }

}  // namespace tartan
