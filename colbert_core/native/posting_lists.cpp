#include "posting_lists.hpp"

#include <algorithm>

namespace tartan {

namespace {

constexpr size_t kSlack = PackedInts::kSlack;

uint64_t load_word(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

[[noreturn]] void refuse(size_t centroid, const std::string& what) {
  throw CorruptShard("the postings of centroid " + std::to_string(centroid) + " " + what);
}

[[noreturn]] void refuse_number(size_t centroid, size_t found, size_t counted) {
  refuse(centroid,
         "are " + std::to_string(found) + " and not the " + std::to_string(counted) + " counted");
}

size_t lists_end(std::span<const uint8_t> bytes) {
  require(bytes.size() >= kSlack, "postings has " + std::to_string(bytes.size()) +
                                      " bytes, expected at least " + std::to_string(kSlack));
  return bytes.size() - kSlack;
}

}  // namespace

PostingLists::PostingLists(std::span<const uint8_t> offsets, std::span<const uint8_t> bytes,
                           size_t centroids, size_t passages)
    : offsets_("posting_offsets", offsets, centroids + 1, lists_end(bytes)),
      bytes_(bytes),
      end_(lists_end(bytes)),
      passages_(passages) {
  const uint64_t first = offsets_[0], last = offsets_[centroids];
  require(first == 0 && last == end_, "posting_offsets runs from " + std::to_string(first) +
                                          " to " + std::to_string(last) + ", expected 0 to " +
                                          std::to_string(end_));
}

void PostingLists::prefetch_list(size_t centroid) const {
  // The offset is not checked yet: the address is computed as an integer.
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes_.data()) + offsets_[centroid];
  __builtin_prefetch(reinterpret_cast<const void*>(begin));
  __builtin_prefetch(reinterpret_cast<const void*>(begin + 64));
}

size_t PostingLists::decode(size_t centroid, uint32_t* out) const {
  const uint64_t begin = offsets_[centroid], end = offsets_[centroid + 1];
  if (begin > end || end > end_) {
    refuse(centroid, "span bytes " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
                         std::to_string(end_));
  }
  if (begin == end) return 0;
  const uint8_t* at = bytes_.data() + begin;
  const uint8_t* const stop = bytes_.data() + end;

  uint64_t count = 0;
  for (int shift = 0;; shift += 7) {
    if (at == stop || shift > 28) refuse(centroid, "do not end counting");
    const uint8_t byte = *at++;
    count |= uint64_t{byte & 127u} << shift;
    if (byte < 128) break;
  }
  if (count == 0 || count > passages_) {
    refuse(centroid,
           "count " + std::to_string(count) + " of " + std::to_string(passages_) + " passages");
  }
  const size_t width = static_cast<size_t>(std::bit_width(passages_ / count)) - 1;
  const uint64_t mask = (uint64_t{1} << width) - 1;
  const uint8_t* const low = at;
  if ((count * width + 7) / 8 > static_cast<size_t>(stop - low)) refuse(centroid, "are cut short");

  uint64_t largest = 0;
  size_t i = 0;
  size_t low_bit = 0;
  const uint8_t* high = low + (count * width + 7) / 8;
  for (uint64_t base = 0; high < stop; high += 8, base += 64) {
    uint64_t word = load_word(high);
    const size_t left = static_cast<size_t>(stop - high);
    if (left < 8) word &= (uint64_t{1} << (8 * left)) - 1;
    const size_t until = i + static_cast<size_t>(std::popcount(word));
    if (until > count) refuse_number(centroid, until, count);
    for (; i < until; ++i, low_bit += width) {
      const uint64_t position = base + static_cast<uint64_t>(std::countr_zero(word));
      word &= word - 1;
      const uint64_t low_bits = load_word(low + low_bit / 8) >> (low_bit % 8) & mask;
      const uint64_t pid = (position - i) << width | low_bits;
      largest = std::max(largest, pid);
      out[i] = static_cast<uint32_t>(pid);
    }
  }
  if (i < count) refuse_number(centroid, i, count);
  if (largest >= passages_) {
    refuse(centroid,
           "name passage " + std::to_string(largest) + " of " + std::to_string(passages_));
  }
  return count;
}

}  // namespace tartan
