// AVX2 for building. 16 lanes are two registers. Bytes are multiplied by vpmaddubsw, which adds two
// products with int16 saturation; it cannot saturate here: the token's magnitude (at most 128) is
// the unsigned side, its sign is moved to the row (within ±127), and 2 · 128 · 127 = 32512 < 32767.
#include <immintrin.h>

#include "build_offer.hpp"
#include "build_quantise.hpp"

namespace tartan {
namespace {

// Sums have a type of their own: through __m256i, gcc 12 copies every one of them in every step.
typedef int32_t Int8 __attribute__((vector_size(32)));

struct BuildAvx2 {
  struct I {
    Int8 a, b;
  };
  struct Quads {
    __m256i values[2], magnitudes[2];
  };
  static constexpr size_t kRows = 4;
  static constexpr int32_t kBias = 0;

  static __m256i load_one(const void* p) {
    return _mm256_load_si256(static_cast<const __m256i*>(p));
  }
  static I load(const int32_t* p) { return {Int8(load_one(p)), Int8(load_one(p + 8))}; }
  static void store(int32_t* p, I value) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), __m256i(value.a));
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + 8), __m256i(value.b));
  }
  static I splat(int32_t value) {
    return {Int8(_mm256_set1_epi32(value)), Int8(_mm256_set1_epi32(value))};
  }
  static Quads load_quads(const int8_t* p) {
    const __m256i first = load_one(p), second = load_one(p + 32);
    return {{first, second}, {_mm256_abs_epi8(first), _mm256_abs_epi8(second)}};
  }
  static I dot(I sum, const Quads& tokens, const int8_t* row) {
    int32_t quad;
    __builtin_memcpy(&quad, row, 4);
    const __m256i value = _mm256_set1_epi32(quad);
    const auto products = [&](int i) {
      const __m256i signed_row = _mm256_sign_epi8(value, tokens.values[i]);
      const __m256i pairs = _mm256_maddubs_epi16(tokens.magnitudes[i], signed_row);
      return Int8(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    };
    return {sum.a + products(0), sum.b + products(1)};
  }
  static I max(I x, I y) { return {x.a > y.a ? x.a : y.a, x.b > y.b ? x.b : y.b}; }
  static bool none_greater(I x, I y) {
    const auto greater = __m256i((x.a > y.a) | (x.b > y.b));
    return _mm256_testz_si256(greater, greater) != 0;
  }
  static void keep_greater(I& best, I& codes, I dots, int32_t code) {
    const I found = splat(code);
    codes = {dots.a > best.a ? found.a : codes.a, dots.b > best.b ? found.b : codes.b};
    best = max(best, dots);
  }
};

}  // namespace

const BuildLeaf& build_leaf_avx2() {
  static constexpr BuildLeaf leaf = make_build_leaf<32>("avx2", 0, offer<BuildAvx2>);
  return leaf;
}

}  // namespace tartan
