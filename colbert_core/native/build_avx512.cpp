#include "build_avx512.hpp"

#include "build_quantise.hpp"

namespace tartan {

const BuildLeaf& build_leaf_avx512() {
  static constexpr BuildLeaf leaf = make_build_leaf<64>("avx512vnni", 0x80, offer<BuildAvx512>);
  return leaf;
}

}  // namespace tartan
