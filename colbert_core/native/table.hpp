// The global centroids, and the best of them for every query token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "leaf.hpp"
#include "pool.hpp"
#include "probe_selector.hpp"
#include "query_pack.hpp"
#include "row_cache.hpp"

namespace tartan {

struct Scratch;

// Every sixteenth centroid, side by side: a look at them costs a sixteenth of one at all, and says
// about where the best begin.
class CentroidSample {
 public:
  static constexpr uint32_t kEvery = 16;

  CentroidSample() = default;
  CentroidSample(const CentroidView& table, size_t centroids);
  CentroidView view() const { return {codes_.data(), scales_.data(), sums_.data(), dim_}; }
  uint32_t centroids() const { return static_cast<uint32_t>(scales_.size()); }

 private:
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
  size_t dim_ = 0;
};

class CentroidTable {
 public:
  // Copies the codes, which every query reads, into memory of its own: it may lie on large pages.
  // Keeps a view of the scales, which must outlive the table. Throws std::invalid_argument.
  CentroidTable(std::span<const int8_t> codes_CD, size_t dim, std::span<const float> scales_C);
  ~CentroidTable();

  size_t centroids() const { return scales_.size(); }
  size_t dim() const { return dim_; }
  CentroidView view() const { return {codes_.data(), scales_.data(), sums_.data(), dim_}; }

  // Fills ids and scores, [L][min(nprobe, C)]: score descending, ties by smaller id. keep_rows: the
  // rows of all centroids are kept for the shards of this process.
  void probe(const QueryPack& query, size_t nprobe, size_t threads, bool keep_rows, int32_t* ids,
             float* scores) const;

  // Of the longest centroid, the length.
  float longest() const { return static_cast<float>(longest_); }
  // gains[lane]: what a dot · c_scale is multiplied by to use the range of an int16; 0 for no
  // token.
  void find_gains(const QueryBlock& block, float* gains) const;
  // What probing has left for this query, or null.
  std::shared_ptr<const CentroidRows> kept_rows(const QueryPack& query) const {
    return rows_.find(query);
  }

  // Shards of this process share them, for each has an entry for every passage of a shard.
  Pool<Scratch>& scratches() const { return scratches_; }

 private:
  // Gives `looked` the thresholds that a look at the sample says; false where it would not pay.
  bool look(const QueryPack& query, size_t nprobe, ProbeSelector& looked) const;
  // Offers every centroid to `selector`; `looked` has the thresholds, or is null. rows: where those
  // of all centroids go, or null.
  void select_all(const QueryPack& query, size_t nprobe, size_t threads,
                  const ProbeSelector* looked, CentroidRows* rows, ProbeSelector& selector) const;
  void select(const QueryPack& query, uint32_t begin, uint32_t end, ProbeSelector& selector,
              CentroidRows* rows) const;

  AlignedBuffer<int8_t> codes_;  // [C][D]
  std::span<const float> scales_;
  std::vector<int32_t> sums_;
  double longest_ = 0;
  size_t dim_;
  CentroidSample sample_;
  mutable Pool<ProbeSelector> selectors_;
  mutable RowCache rows_;
  mutable Pool<Scratch> scratches_;
};

}  // namespace tartan
