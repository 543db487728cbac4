// Unsigned integers in as many bits as the largest of them needs: see colbert_core/packed_ints.py.
#pragma once

#include <bit>
#include <span>
#include <string>

#include "common.hpp"

namespace tartan {

class PackedInts {
 public:
  static constexpr size_t kSlack = 7;  // bytes behind the last value, so that a load never leaves

  PackedInts() = default;

  // `size` values up to `largest`. Throws std::invalid_argument naming an array of the wrong size.
  PackedInts(const char* name, std::span<const uint8_t> bytes, size_t size, uint64_t largest)
      : bytes_(bytes.data()), size_(size), width_(largest == 0 ? 1 : std::bit_width(largest)) {
    require(width_ <= 57, std::string(name) + " would need more than 57 bits a value");
    mask_ = (uint64_t{1} << width_) - 1;
    const size_t expected = (size * width_ + 7) / 8 + kSlack;
    require(bytes.size() == expected, std::string(name) + " has " + std::to_string(bytes.size()) +
                                          " bytes, expected " + std::to_string(expected));
  }

  size_t size() const { return size_; }

  uint64_t operator[](size_t i) const {
    const size_t bit = i * width_;
    uint64_t word;
    std::memcpy(&word, bytes_ + bit / 8, sizeof(word));
    return word >> (bit % 8) & mask_;
  }

  // out[i] = value begin + i; values of more than 32 bits are cut.
  void unpack(size_t begin, size_t end, uint32_t* out) const {
    size_t bit = begin * width_;
    for (size_t i = begin; i < end; ++i, bit += width_) {
      uint64_t word;
      std::memcpy(&word, bytes_ + bit / 8, sizeof(word));
      *out++ = static_cast<uint32_t>(word >> (bit % 8) & mask_);
    }
  }

  // Asks for the values from `begin` to `end`.
  void prefetch(size_t begin, size_t end) const {
    const uintptr_t first = reinterpret_cast<uintptr_t>(bytes_);
    const uintptr_t last = first + (end * width_ + 7) / 8;
    for (uintptr_t at = (first + begin * width_ / 8) & ~uintptr_t{63}; at < last; at += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(at));
    }
  }

 private:
  const uint8_t* bytes_ = nullptr;
  size_t size_ = 0;
  size_t width_ = 1;
  uint64_t mask_ = 1;
};

static_assert(std::endian::native == std::endian::little, "index files are little-endian");

}  // namespace tartan
