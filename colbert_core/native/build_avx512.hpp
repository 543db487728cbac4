// The vector class of AVX-512 F/BW/VL/VNNI for building. vpdpbusd multiplies unsigned by signed
// bytes, so tokens are biased by 128 and what that adds is taken off by the rows' sums.
#pragma once

#include <immintrin.h>

#include "build_offer.hpp"

namespace tartan {
namespace {

// See leaf_avx512.hpp: through __m512i, gcc 12 copies every accumulator in every step.
typedef int32_t BuildLanes __attribute__((vector_size(64)));

struct BuildAvx512 {
  using I = BuildLanes;
  using Quads = BuildLanes;
  static constexpr size_t kRows = 16;
  static constexpr int32_t kBias = 128;

  static I load(const int32_t* p) { return I(_mm512_load_si512(p)); }
  static void store(int32_t* p, I value) { _mm512_store_si512(p, __m512i(value)); }
  static I splat(int32_t value) { return I(_mm512_set1_epi32(value)); }
  static Quads load_quads(const int8_t* p) { return I(_mm512_load_si512(p)); }
  static I dot(I sum, Quads tokens, const int8_t* row) {
    int32_t quad;
    __builtin_memcpy(&quad, row, 4);
    return I(_mm512_dpbusd_epi32(__m512i(sum), __m512i(tokens), _mm512_set1_epi32(quad)));
  }
  static I max(I a, I b) { return I(_mm512_max_epi32(__m512i(a), __m512i(b))); }
  static bool none_greater(I a, I b) {
    return _mm512_cmpgt_epi32_mask(__m512i(a), __m512i(b)) == 0;
  }
  static void keep_greater(I& best, I& codes, I dots, int32_t code) {
    const __mmask16 better = _mm512_cmpgt_epi32_mask(__m512i(dots), __m512i(best));
    best = max(best, dots);
    codes = I(_mm512_mask_mov_epi32(__m512i(codes), better, _mm512_set1_epi32(code)));
  }
};

}  // namespace
}  // namespace tartan
