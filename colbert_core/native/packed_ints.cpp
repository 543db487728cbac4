#include "packed_ints.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace tartan {

PackedInts::PackedInts(const char* name, std::span<const uint8_t> bytes, size_t size,
                       uint64_t largest)
    : bytes_(bytes.data()), size_(size), width_(largest == 0 ? 1 : std::bit_width(largest)) {
  require(width_ <= 57, std::string(name) + " would need more than 57 bits a value");
  mask_ = (uint64_t{1} << width_) - 1;
  unpack_ = unpack_of(width_);
  const size_t expected = (size * width_ + 7) / 8 + kSlack;
  require(bytes.size() == expected, std::string(name) + " has " + std::to_string(bytes.size()) +
                                        " bytes, expected " + std::to_string(expected));
}

void PackedInts::unpack_any(const PackedInts& values, size_t begin, size_t end, uint32_t* out) {
  for (size_t i = begin; i < end; ++i) *out++ = static_cast<uint32_t>(values[i]);
}

// Eight values begin where a byte does: the shifts between are known when this is compiled.
template <size_t kWidth>
void PackedInts::unpack_width(const PackedInts& values, size_t begin, size_t end, uint32_t* out) {
  static_assert(kWidth + 7 <= 32);
  constexpr uint32_t kMask = (uint32_t{1} << kWidth) - 1;
  const size_t first = std::min(end, (begin + 7) / 8 * 8);
  unpack_any(values, begin, first, out);
  out += first - begin;
  for (begin = first; end - begin >= 8; begin += 8, out += 8) {
    const uint8_t* const bytes = values.bytes_ + begin / 8 * kWidth;
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      uint32_t word;
      std::memcpy(&word, bytes + j * kWidth / 8, sizeof(word));
      out[j] = word >> (j * kWidth % 8) & kMask;
    }
  }
  unpack_any(values, begin, end, out);
}

PackedInts::Unpack* PackedInts::unpack_of(size_t width) {
  static constexpr auto kByWidth = []<size_t... kWidths>(std::index_sequence<kWidths...>) {
    return std::array<Unpack*, sizeof...(kWidths)>{unpack_width<kWidths>...};
  }(std::make_index_sequence<26>());
  return width < kByWidth.size() ? kByWidth[width] : unpack_any;
}

}  // namespace tartan
