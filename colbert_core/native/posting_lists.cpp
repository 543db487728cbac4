#include "posting_lists.hpp"

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

// For each byte: how many ones it has, and how many zeros stand before each of them.
struct Ones {
  uint8_t count[256] = {};
  uint16_t zeros_before[256][8] = {};  // 16 bits: half the time of 8 or of 32
};

constexpr Ones find_ones() {
  Ones ones;
  for (size_t byte = 0; byte < 256; ++byte) {
    for (size_t bit = 0; bit < 8; ++bit) {
      if (byte >> bit & 1) {
        const uint8_t i = ones.count[byte]++;
        ones.zeros_before[byte][i] = static_cast<uint16_t>(bit - i);
      }
    }
  }
  return ones;
}

constexpr Ones kOnes = find_ones();

// How many passages a list has; `at` moves behind the bytes that say so.
size_t read_count(size_t centroid, const uint8_t*& at, const uint8_t* stop) {
  uint64_t count = 0;
  for (int shift = 0; shift < 35 && at < stop; shift += 7) {
    const uint8_t byte = *at++;
    count |= uint64_t{byte & 127u} << shift;
    if (byte < 128) return count;
  }
  refuse(centroid, "do not end counting");
}

// out[i] = (zeros before the i-th one) << width. How many ones there are; it stops where they are
// more than `count`. Eight are written for each byte, whatever it holds: no branch depends on it.
size_t spread_high_bits(std::span<const uint8_t> high, size_t width, size_t count, uint32_t* out) {
  size_t i = 0;
  for (size_t k = 0; k < high.size() && i <= count; ++k) {
    const uint16_t* const zeros = kOnes.zeros_before[high[k]];
    const uint32_t base = static_cast<uint32_t>(8 * k - i);
    for (size_t j = 0; j < 8; ++j) out[i + j] = (base + zeros[j]) << width;
    i += kOnes.count[high[k]];
  }
  return i;
}

// out[i] |= the (from + i)-th low bits, `kTogether` of them from one load: kTogether · width + 7
// ≤ 64.
template <size_t kTogether>
void add_low_bits(const uint8_t* low, size_t width, size_t from, size_t count, uint32_t* out) {
  const uint32_t mask = (uint32_t{1} << width) - 1;
  for (size_t i = 0; i < count; i += kTogether) {
    const size_t bit = (from + i) * width;
    uint64_t word = load_word(low + bit / 8) >> (bit % 8);
    for (size_t j = 0; j < kTogether; ++j, word >>= width) {
      out[i + j] |= static_cast<uint32_t>(word) & mask;
    }
  }
}

void add_low_bits(const uint8_t* low, size_t width, size_t from, size_t count, uint32_t* out) {
  if (width <= 7) {
    add_low_bits<8>(low, width, from, count, out);
  } else if (width <= 14) {
    add_low_bits<4>(low, width, from, count, out);
  } else {
    add_low_bits<1>(low, width, from, count, out);
  }
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

PostingLists::List PostingLists::open(size_t centroid) const {
  const uint64_t begin = offsets_[centroid], end = offsets_[centroid + 1];
  if (begin > end || end > end_) {
    refuse(centroid, "span bytes " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
                         std::to_string(end_));
  }
  List list;
  if (begin == end) return list;
  list.low = bytes_.data() + begin;
  const uint8_t* const stop = bytes_.data() + end;
  list.count = read_count(centroid, list.low, stop);
  if (list.count == 0 || list.count > passages_) {
    refuse(centroid, "count " + std::to_string(list.count) + " of " + std::to_string(passages_) +
                         " passages");
  }
  list.width = static_cast<size_t>(std::bit_width(passages_ / list.count)) - 1;
  const size_t low_bytes = (list.count * list.width + 7) / 8;
  if (low_bytes > static_cast<size_t>(stop - list.low)) refuse(centroid, "are cut short");
  list.high = {list.low + low_bytes, stop};
  if (list.high.size() > (list.count + (passages_ >> list.width) + 7) / 8) {
    refuse(centroid, "are too long");
  }
  return list;
}

size_t PostingLists::decode(size_t centroid, uint32_t* out) const {
  const List list = open(centroid);
  const size_t count = list.count, width = list.width;
  if (count == 0) return 0;
  const size_t found = spread_high_bits(list.high, width, count, out);
  if (found != count) {
    refuse(centroid,
           "are " + std::to_string(found) + " and not the " + std::to_string(count) + " counted");
  }
  add_low_bits(list.low, width, 0, count, out);
  // High bits never fall: a passage that is too large shares the last one's.
  const uint32_t top = out[count - 1] >> width;
  for (size_t i = count; i-- > 0 && out[i] >> width == top;) {
    if (out[i] >= passages_) {
      refuse(centroid,
             "name passage " + std::to_string(out[i]) + " of " + std::to_string(passages_));
    }
  }
  return count;
}

// Those of the window; up to 2^width of a list of N / 2^width or less, at either end, that share
// their high bits with one of them; and what stands in the same 64 bits.
size_t PostingLists::room_within(size_t passages) const {
  const size_t root = size_t{1} << (std::bit_width(passages_) + 1) / 2;
  return passages + 2 * root + 64 + kRoom;
}

size_t PostingLists::decode_within(size_t centroid, size_t first, size_t last,
                                   uint32_t* out) const {
  const List list = open(centroid);
  if (list.count == 0 || first >= last) return 0;
  const size_t lowest = first >> list.width, highest = (last - 1) >> list.width;
  const auto zeros_before = [](size_t byte, size_t ones) { return 8 * byte - ones; };
  size_t byte = 0, skipped = 0;  // ones
  for (; byte + 8 <= list.high.size(); byte += 8) {
    const auto ones = static_cast<size_t>(std::popcount(load_word(list.high.data() + byte)));
    if (zeros_before(byte + 8, skipped + ones) >= lowest) break;
    skipped += ones;
  }
  const size_t most = room_within(last - first) - kRoom;
  size_t found = 0;
  for (; byte < list.high.size(); ++byte) {
    const size_t base = zeros_before(byte, skipped + found);
    if (base > highest) break;
    if (found > most || skipped + found > list.count) refuse(centroid, "are more than counted");
    const uint16_t* const zeros = kOnes.zeros_before[list.high[byte]];
    for (size_t j = 0; j < 8; ++j) {
      out[found + j] = static_cast<uint32_t>(base + zeros[j]) << list.width;
    }
    found += kOnes.count[list.high[byte]];
  }
  if (skipped + found > list.count) refuse(centroid, "are more than counted");
  add_low_bits(list.low, list.width, skipped, found, out);
  size_t kept = 0;
  for (size_t i = 0; i < found; ++i) {
    const uint32_t within = out[i] - static_cast<uint32_t>(first);
    out[kept] = within;
    kept += within < last - first;
  }
  return kept;
}

}  // namespace tartan
