// AVX-512 F/BW/VL/VNNI/VBMI.
#include "leaf_avx512.hpp"

namespace tartan {
namespace {

constexpr Leaf kLeaf = make_leaf<Avx512>("avx512vnni");

}  // namespace

const Leaf& leaf_avx512() { return kLeaf; }

}  // namespace tartan
