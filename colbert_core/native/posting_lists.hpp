// Posting lists in Elias–Fano code: see colbert_core/posting_lists.py.
#pragma once

#include "packed_ints.hpp"

namespace tartan {

class PostingLists {
 public:
  PostingLists() = default;

  // `offsets` holds where the list of each centroid begins in `bytes`, and where the last one ends,
  // packed. Throws std::invalid_argument naming what is wrong.
  PostingLists(std::span<const uint8_t> offsets, std::span<const uint8_t> bytes, size_t centroids,
               size_t passages);

  static constexpr size_t kRoom = 16;  // what `decode` may write behind the passages

  // Writes the passages of a list to `out`, which has room for all passages and kRoom more; how
  // many there are. Throws CorruptShard.
  size_t decode(size_t centroid, uint32_t* out) const;

  // The same for the passages `first` to `last` - 1 alone, counted from `first`: what lies before
  // is skipped, 64 bits at a time. `out` has room for `room_within(last - first)`.
  size_t decode_within(size_t centroid, size_t first, size_t last, uint32_t* out) const;
  size_t room_within(size_t passages) const;

  // Asks for what says where a list is; later, for where it begins.
  void prefetch_offset(size_t centroid) const { offsets_.prefetch(centroid, centroid + 1); }
  void prefetch_list(size_t centroid) const;

 private:
  // A list in its parts; of an empty one, nothing but the count.
  struct List {
    size_t count = 0;
    size_t width = 0;  // of the low bits
    const uint8_t* low = nullptr;
    std::span<const uint8_t> high;
  };
  List open(size_t centroid) const;

  PackedInts offsets_;  // [C+1]
  std::span<const uint8_t> bytes_;
  size_t end_ = 0;  // of the last list
  size_t passages_ = 0;
};

}  // namespace tartan
