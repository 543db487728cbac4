// Unsigned integers in as many bits as the largest of them needs: see colbert_core/packed_ints.py.
#pragma once

#include <bit>
#include <span>

#include "common.hpp"

namespace tartan {

class PackedInts {
 public:
  static constexpr size_t kSlack = 7;  // bytes behind the last value, so that a load never leaves

  PackedInts() = default;

  // `size` values up to `largest`. Throws std::invalid_argument naming an array of the wrong size.
  PackedInts(const char* name, std::span<const uint8_t> bytes, size_t size, uint64_t largest);

  size_t size() const { return size_; }

  uint64_t operator[](size_t i) const {
    const size_t bit = i * width_;
    uint64_t word;
    std::memcpy(&word, bytes_ + bit / 8, sizeof(word));
    return word >> (bit % 8) & mask_;
  }

  // out[i] = value begin + i; values of more than 32 bits are cut.
  void unpack(size_t begin, size_t end, uint32_t* out) const { unpack_(*this, begin, end, out); }

  // Asks for the values from `begin` to `end`.
  void prefetch(size_t begin, size_t end) const {
    const uintptr_t first = reinterpret_cast<uintptr_t>(bytes_);
    const uintptr_t last = first + (end * width_ + 7) / 8;
    for (uintptr_t at = (first + begin * width_ / 8) & ~uintptr_t{63}; at < last; at += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(at));
    }
  }

 private:
  using Unpack = void(const PackedInts&, size_t begin, size_t end, uint32_t* out);

  static Unpack unpack_any;
  template <size_t kWidth>
  static Unpack unpack_width;
  static Unpack* unpack_of(size_t width);

  const uint8_t* bytes_ = nullptr;
  size_t size_ = 0;
  size_t width_ = 1;
  uint64_t mask_ = 1;
  Unpack* unpack_ = unpack_any;
};

static_assert(std::endian::native == std::endian::little, "index files are little-endian");

}  // namespace tartan
