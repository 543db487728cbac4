// The one order of results — higher score, then smaller id — as a 64-bit key, and selecting by it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <vector>

namespace tartan {

// Floats as integers in the same order. −0 and +0 are one value; NaN has a place too, so that a
// sort stays a sort whatever the data.
inline uint32_t ordered(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

inline float unordered(uint32_t key) {
  return std::bit_cast<float>(key >> 31 ? key & 0x7fffffffu : ~key);
}

// Larger is better.
inline uint64_t rank_key(uint32_t order, uint32_t id) {
  return static_cast<uint64_t>(order) << 32 | static_cast<uint32_t>(~id);
}
inline uint64_t rank_key(float score, uint32_t id) { return rank_key(ordered(score), id); }
inline uint32_t key_id(uint64_t key) { return ~static_cast<uint32_t>(key); }
inline float key_score(uint64_t key) { return unordered(static_cast<uint32_t>(key >> 32)); }

// Leaves the `count` largest keys in front, in no order, and cuts the rest.
inline void keep_best(std::vector<uint64_t>& keys, size_t count) {
  if (keys.size() <= count) return;
  std::nth_element(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(count) - 1, keys.end(),
                   std::greater<>());
  keys.resize(count);
}

inline void sort_best_first(std::vector<uint64_t>& keys) {
  std::sort(keys.begin(), keys.end(), std::greater<>());
}

}  // namespace tartan
