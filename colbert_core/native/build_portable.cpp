// Building without intrinsics, on the vectors that gcc and clang know on every processor. A lane's
// quad is split into even and odd bytes, widened to int16: a product is at most 127 · 127 and two
// of them still fit, so a quad costs two multiplications before it is widened again.
#include "build_offer.hpp"
#include "build_quantise.hpp"

namespace tartan {
namespace {

typedef int32_t Int32s __attribute__((vector_size(64)));
typedef int16_t Int16s __attribute__((vector_size(64)));

struct BuildPortable {
  using I = Int32s;
  struct Quads {
    Int16s even, odd;
  };
  static constexpr size_t kRows = 4;
  static constexpr int32_t kBias = 0;

  static I load(const int32_t* p) {
    I value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
  }
  static void store(int32_t* p, I value) { __builtin_memcpy(p, &value, sizeof value); }
  static I splat(int32_t value) { return value - I{}; }
  static Quads load_quads(const int8_t* p) {
    Int16s pairs;
    __builtin_memcpy(&pairs, p, sizeof pairs);
    return {(pairs << 8) >> 8, pairs >> 8};
  }
  static I dot(I sum, const Quads& tokens, const int8_t* row) {
    const Int16s products = tokens.even * pair(row[0], row[2]) + tokens.odd * pair(row[1], row[3]);
    const I both = I(products);
    return sum + ((both << 16) >> 16) + (both >> 16);
  }
  static Int16s pair(int8_t first, int8_t second) {
    const uint32_t bits = static_cast<uint16_t>(first) | static_cast<uint32_t>(second) << 16;
    return Int16s(splat(static_cast<int32_t>(bits)));
  }
  static I max(I a, I b) { return a > b ? a : b; }
  static bool none_greater(I a, I b) {
    const I greater = a > b;
    int32_t any = 0;
    for (size_t lane = 0; lane < kHalf; ++lane) any |= greater[lane];
    return any == 0;
  }
  static void keep_greater(I& best, I& codes, I dots, int32_t code) {
    codes = dots > best ? splat(code) : codes;
    best = max(best, dots);
  }
};

}  // namespace

const BuildLeaf& build_leaf_portable() {
  static constexpr BuildLeaf leaf = make_build_leaf<16>("portable", 0, offer<BuildPortable>);
  return leaf;
}

}  // namespace tartan
