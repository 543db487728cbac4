// NEON for building, with the dot product instructions of ARMv8.2. 16 lanes are four registers.
#include <arm_neon.h>

#include "build_offer.hpp"
#include "build_quantise.hpp"

namespace tartan {
namespace {

struct BuildNeon {
  struct I {
    int32x4_t part[4];
  };
  struct Quads {
    int8x16_t part[4];
  };
  static constexpr size_t kRows = 4;
  static constexpr int32_t kBias = 0;

  static I load(const int32_t* p) {
    return each<I>([=](int i) { return vld1q_s32(p + 4 * i); });
  }
  static void store(int32_t* p, I value) {
    for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, value.part[i]);
  }
  static I splat(int32_t value) {
    return each<I>([=](int) { return vdupq_n_s32(value); });
  }
  static Quads load_quads(const int8_t* p) {
    return each<Quads>([=](int i) { return vld1q_s8(p + 16 * i); });
  }
  static I dot(I sum, const Quads& tokens, const int8_t* row) {
    int32_t quad;
    __builtin_memcpy(&quad, row, 4);
    const int8x16_t value = vreinterpretq_s8_s32(vdupq_n_s32(quad));
    return each<I>([&](int i) { return vdotq_s32(sum.part[i], tokens.part[i], value); });
  }
  static I max(I x, I y) {
    return each<I>([&](int i) { return vmaxq_s32(x.part[i], y.part[i]); });
  }
  static bool none_greater(I x, I y) {
    const auto above = [&](int i) { return vcgtq_s32(x.part[i], y.part[i]); };
    return vmaxvq_u32(vorrq_u32(vorrq_u32(above(0), above(1)), vorrq_u32(above(2), above(3)))) == 0;
  }
  static void keep_greater(I& best, I& codes, I dots, int32_t code) {
    const int32x4_t found = vdupq_n_s32(code);
    codes = each<I>([&](int i) {
      return vbslq_s32(vcgtq_s32(dots.part[i], best.part[i]), found, codes.part[i]);
    });
    best = max(best, dots);
  }

 private:
  template <class T, class Op>
  static T each(const Op& op) {
    return {{op(0), op(1), op(2), op(3)}};
  }
};

}  // namespace

const BuildLeaf& build_leaf_neon() {
  static constexpr BuildLeaf leaf = make_build_leaf<16>("neon", 0, offer<BuildNeon>);
  return leaf;
}

}  // namespace tartan
