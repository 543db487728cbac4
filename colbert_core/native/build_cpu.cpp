#include <string_view>

#include "build_leaf.hpp"
#include "cpu.hpp"

namespace tartan {

const BuildLeaf& active_build_leaf() {
  [[maybe_unused]] const std::string_view name = active_leaf().name;
#ifdef TARTAN_X86
#ifdef TARTAN_AMX
  if (name == "amx") return build_leaf_amx();
#endif
  if (name == "avx512vnni") return build_leaf_avx512();
  if (name == "avx2") return build_leaf_avx2();
#endif
#ifdef TARTAN_NEON
  if (name == "neon") return build_leaf_neon();
#endif
  return build_leaf_portable();
}

}  // namespace tartan
