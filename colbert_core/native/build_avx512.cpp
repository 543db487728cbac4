#include "build_avx512.hpp"

namespace tartan {

const BuildLeaf& build_leaf_avx512() {
  static constexpr BuildLeaf leaf{"avx512vnni", nullptr, nullptr, 0x80, offer<BuildAvx512>};
  return leaf;
}

}  // namespace tartan
