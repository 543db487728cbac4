// What one query needs besides the shard; borrowed from a pool, so that nothing is allocated anew.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common.hpp"
#include "query_pack.hpp"
#include "shard.hpp"
#include "stopping.hpp"

namespace tartan {

// A stamp per entry says in which epoch its value was written: a new epoch clears all at no cost.
template <class Value>
class StampedArray {
 public:
  struct Slot {
    uint32_t stamp = 0;
    Value value{};
  };

  // `epochs` fresh stamps; the first of them is returned. Where they run out, all slots are wiped.
  uint32_t begin(size_t size, uint32_t epochs) {
    if (slots_.size() < size) slots_.resize(size);
    if (last_ > std::numeric_limits<uint32_t>::max() - epochs) {
      slots_.assign(slots_.size(), Slot{});
      last_ = 0;
    }
    const uint32_t first = last_ + 1;
    last_ += epochs;
    return first;
  }

  Slot* data() { return slots_.data(); }
  // For tests: as if `last` stamps had been used up.
  void age(uint32_t last) { last_ = std::max(last_, last); }

 private:
  std::vector<Slot> slots_;
  uint32_t last_ = 0;
};

struct Scratch {
  QueryPack query;
  std::vector<float> sum_D;  // of the query's tokens
  QueryPack query_sum;       // the same as a query of one token

  // accumulate
  StampedArray<uint32_t> totals;     // [N]
  AlignedBuffer<uint32_t> postings;  // one list
  AlignedBuffer<uint32_t> touched;   // passages met, in the order of their first meeting
  size_t touched_count = 0;
  AlignedBuffer<uint64_t> touched_keys;
  std::vector<uint64_t> keys;
  std::vector<uint32_t> histogram;
  std::vector<int32_t> probe_ids;  // of a wider probe
  std::vector<float> probe_scores;

  // scan
  std::vector<uint32_t> pids;
  std::vector<float> scores;
  StampedArray<uint32_t> row_of;  // [C]
  uint32_t row_epoch = 0;
  uint32_t rows = 0;  // of the next two in use
  std::shared_ptr<const CentroidRows> kept_rows;
  // Whether row_of and rows_i16 are of this query, all of whose tokens are one block; and where
  // rows_i16 has every centroid of it.
  bool rows_known = false;
  const int16_t* every_row = nullptr;
  AlignedBuffer<int16_t> rows_i16;  // [rows][lanes] scores of centroids
  AlignedBuffer<float> kept;        // [rows][lanes] dots of centroids
  std::vector<Range> spans;         // tokens of every passage of a batch
  size_t tokens = 0;                // of a batch
  // of every token of a batch
  AlignedBuffer<uint32_t> token_codes, token_rows;
  AlignedBuffer<float> centroid_weights, residual_weights, alphas, look_weights, lengths;
  AlignedBuffer<uint32_t> missing;  // centroids whose row is to be computed
  AlignedBuffer<uint8_t> tile, centroid_tile;

  ExpectedMisses::Memory misses;

  // precise
  std::vector<uint32_t> codes;
  AlignedBuffer<float> vectors;
  AlignedBuffer<float> dots;
  std::vector<float> best;          // [L]
  std::vector<int32_t> best_token;  // [L]
};

}  // namespace tartan
