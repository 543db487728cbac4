// The global centroids, and the best of them for every query token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "leaf.hpp"
#include "pool.hpp"
#include "query_pack.hpp"
#include "row_cache.hpp"

namespace tartan {

struct Scratch;

// Per query token the best P of the centroids offered so far, with slack, so that most offers are
// one store: only a full buffer is cut back to P.
class ProbeSelector {
 public:
  void reset(const QueryPack& query, size_t nprobe, size_t centroids);
  ProbeLanes lanes(const QueryBlock& block);
  void offer(size_t token, Offer offered);
  // The best, in order, of one query token: rank keys.
  std::span<const uint64_t> finish(size_t token);

 private:
  float* lanes_of(const QueryBlock& block);
  void cut(size_t token);
  static void make_room(void* selector, size_t token);

  std::vector<Offer> offers_;         // [lanes][capacity]
  std::vector<uint32_t> counts_;      // [lanes]
  std::vector<float> best_;           // [blocks][depth][lanes of a block]
  std::vector<size_t> threshold_at_;  // of each lane, in best_
  std::vector<uint64_t> keys_;        // of one query token
  size_t nprobe_ = 0;
  size_t capacity_ = 0;
};

class CentroidTable {
 public:
  // Keeps views of the arrays; they must outlive the table. Throws std::invalid_argument.
  CentroidTable(std::span<const int8_t> codes_CD, size_t dim, std::span<const float> scales_C);
  ~CentroidTable();

  size_t centroids() const { return scales_.size(); }
  size_t dim() const { return dim_; }
  CentroidView view() const { return {codes_.data(), scales_.data(), sums_.data(), dim_}; }

  // Fills ids and scores, [L][min(nprobe, C)]: score descending, ties by smaller id. keep_rows: the
  // rows of all centroids are kept for the shards of this process.
  void probe(const QueryPack& query, size_t nprobe, size_t threads, bool keep_rows, int32_t* ids,
             float* scores) const;

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
  // rows: where those of all centroids go, or null.
  void select(const QueryPack& query, uint32_t begin, uint32_t end, ProbeSelector& selector,
              CentroidRows* rows) const;

  std::span<const int8_t> codes_;
  std::span<const float> scales_;
  std::vector<int32_t> sums_;
  double longest_ = 0;
  size_t dim_;
  mutable Pool<ProbeSelector> selectors_;
  mutable RowCache rows_;
  mutable Pool<Scratch> scratches_;
};

}  // namespace tartan
