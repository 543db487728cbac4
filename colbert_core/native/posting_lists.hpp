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

  // Asks for what says where a list is; later, for where it begins.
  void prefetch_offset(size_t centroid) const { offsets_.prefetch(centroid, centroid + 1); }
  void prefetch_list(size_t centroid) const;

 private:
  PackedInts offsets_;  // [C+1]
  std::span<const uint8_t> bytes_;
  size_t end_ = 0;  // of the last list
  size_t passages_ = 0;
};

}  // namespace tartan
