#include "cpu.hpp"

#include <atomic>
#include <cstdlib>

#if defined(TARTAN_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tartan {

namespace {

#ifdef TARTAN_NEON
// Whether the processor has sdot. All that run macOS on arm64 have.
bool has_dot_products() {
#ifdef __linux__
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;
#endif
}
#endif

std::vector<const Leaf*> runnable() {
  std::vector<const Leaf*> leaves;
#ifdef TARTAN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2");
  // VBMI is what bits along the trellis are unpacked with: Cascade Lake, which has VNNI without it,
  // takes AVX2.
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512vbmi")) {
#ifdef TARTAN_AMX
    if (__builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-tile") && amx_allowed()) {
      leaves.push_back(&leaf_amx());
    }
#endif
    leaves.push_back(&leaf_avx512());
  }
  if (avx2) leaves.push_back(&leaf_avx2());
#endif
#ifdef TARTAN_NEON
  if (has_dot_products()) leaves.push_back(&leaf_neon());
#endif
  leaves.push_back(&leaf_portable());
  return leaves;
}

const Leaf* find(const std::string& name) {
  std::string names;
  for (const Leaf* leaf : runnable()) {
    if (name == leaf->name) return leaf;
    names += names.empty() ? leaf->name : std::string(", ") + leaf->name;
  }
  throw std::invalid_argument("SIMD path '" + name + "' cannot run here; possible: " + names);
}

std::atomic<const Leaf*> chosen{nullptr};

}  // namespace

const Leaf& active_leaf() {
  const Leaf* leaf = chosen.load(std::memory_order_acquire);
  if (leaf == nullptr) {
    const char* wish = std::getenv("TARTAN_ISA");
    leaf = wish != nullptr && *wish != '\0' ? find(wish) : runnable().front();
    chosen.store(leaf, std::memory_order_release);
  }
  return *leaf;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Leaf* leaf : runnable()) names.emplace_back(leaf->name);
  return names;
}

void use_isa(const std::string& name) { chosen.store(find(name), std::memory_order_release); }

}  // namespace tartan
