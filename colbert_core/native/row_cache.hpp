// The int16 scores of every centroid for a query: what probing leaves for centroid interaction.
//
// The shards of one process share them. A table keeps those of its last few queries; a shard that
// finds none there computes what it needs itself, to the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "query_pack.hpp"

namespace tartan {

struct CentroidRows {
  size_t tokens = 0;              // of the query
  std::vector<int8_t> coarse;     // its coarse plane: rows depend on nothing else
  AlignedBuffer<int16_t> values;  // [blocks][C][lanes of the block]
  uint64_t used = 0;

  // Of the block that begins with query token `first`.
  const int16_t* of(size_t first, size_t centroids) const {
    return values.data() + first * centroids;
  }
  bool belong_to(const QueryPack& query) const {
    const auto plane = query.coarse_plane();
    return tokens == query.tokens() &&
           std::equal(plane.begin(), plane.end(), coarse.begin(), coarse.end());
  }
};

class RowCache {
 public:
  static constexpr size_t kQueries = 8;
  static constexpr size_t kLargestBytes = size_t{16} << 20;  // of one query's rows

  // Rows to be filled for a query, with memory of ones that nobody reads any more; null where they
  // would be too large to keep.
  std::shared_ptr<CentroidRows> blank(const QueryPack& query, size_t centroids) {
    const size_t entries = query.lanes() * centroids;
    if (entries * sizeof(int16_t) > kLargestBytes) return nullptr;
    std::shared_ptr<CentroidRows> rows = take();
    rows->tokens = query.tokens();
    const auto plane = query.coarse_plane();
    rows->coarse.assign(plane.begin(), plane.end());
    rows->values.grow(entries);
    return rows;
  }

  void keep(std::shared_ptr<CentroidRows> rows) {
    const std::lock_guard lock(mutex_);
    rows->used = ++clock_;
    kept_.push_back(std::move(rows));
  }

  std::shared_ptr<const CentroidRows> find(const QueryPack& query) {
    const std::lock_guard lock(mutex_);
    for (const auto& rows : kept_) {
      if (!rows->belong_to(query)) continue;
      rows->used = ++clock_;
      return rows;
    }
    return nullptr;
  }

 private:
  // The oldest that is kept, once there are enough; it is not found again from now on.
  std::shared_ptr<CentroidRows> take() {
    const std::lock_guard lock(mutex_);
    if (kept_.size() < kQueries) return std::make_shared<CentroidRows>();
    const auto oldest = std::min_element(
        kept_.begin(), kept_.end(), [](const auto& a, const auto& b) { return a->used < b->used; });
    std::shared_ptr<CentroidRows> rows = std::move(*oldest);
    kept_.erase(oldest);
    // Somebody may still read it; found no more, it cannot gain readers.
    return rows.use_count() == 1 ? rows : std::make_shared<CentroidRows>();
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<CentroidRows>> kept_;
  uint64_t clock_ = 0;
};

}  // namespace tartan
