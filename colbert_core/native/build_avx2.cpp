// AVX2 for building. 16 lanes are two registers. Bytes are multiplied by vpmaddubsw, which adds two
// products with int16 saturation; it cannot saturate here: the token's magnitude (at most 128) is
// the unsigned side, its sign is moved to the row (within ±127), and 2 · 128 · 127 = 32512 < 32767.
#include <immintrin.h>

#include "build_offer.hpp"
#include "build_quantise.hpp"

namespace tartan {
namespace {

struct BuildAvx2 {
  struct I {
    __m256i a, b;
  };
  struct Quads {
    I values, magnitudes;
  };
  static constexpr size_t kRows = 4;
  static constexpr int32_t kBias = 0;

  static __m256i load_one(const void* p) {
    return _mm256_load_si256(static_cast<const __m256i*>(p));
  }
  static I load(const int32_t* p) { return {load_one(p), load_one(p + 8)}; }
  static void store(int32_t* p, I value) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), value.a);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + 8), value.b);
  }
  static I splat(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
  static Quads load_quads(const int8_t* p) {
    const I values{load_one(p), load_one(p + 32)};
    return {values, {_mm256_abs_epi8(values.a), _mm256_abs_epi8(values.b)}};
  }
  static I dot(I sum, const Quads& tokens, const int8_t* row) {
    int32_t quad;
    __builtin_memcpy(&quad, row, 4);
    const __m256i value = _mm256_set1_epi32(quad);
    return {add_products(sum.a, tokens.magnitudes.a, _mm256_sign_epi8(value, tokens.values.a)),
            add_products(sum.b, tokens.magnitudes.b, _mm256_sign_epi8(value, tokens.values.b))};
  }
  static __m256i add_products(__m256i sum, __m256i magnitudes, __m256i signed_row) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitudes, signed_row);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static I max(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
  static bool none_greater(I x, I y) {
    const __m256i greater =
        _mm256_or_si256(_mm256_cmpgt_epi32(x.a, y.a), _mm256_cmpgt_epi32(x.b, y.b));
    return _mm256_testz_si256(greater, greater) != 0;
  }
  static void keep_greater(I& best, I& codes, I dots, int32_t code) {
    const __m256i found = _mm256_set1_epi32(code);
    codes.a = _mm256_blendv_epi8(codes.a, found, _mm256_cmpgt_epi32(dots.a, best.a));
    codes.b = _mm256_blendv_epi8(codes.b, found, _mm256_cmpgt_epi32(dots.b, best.b));
    best = max(best, dots);
  }
};

}  // namespace

const BuildLeaf& build_leaf_avx2() {
  static constexpr BuildLeaf leaf = make_build_leaf<32>("avx2", 0, offer<BuildAvx2>);
  return leaf;
}

}  // namespace tartan
