// One shard: views of its arrays, and the search over them. colbert_core/reference/shard.py tells
// the algorithm.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common.hpp"
#include "packed_ints.hpp"
#include "posting_lists.hpp"
#include "query_pack.hpp"
#include "table.hpp"

namespace tartan {

constexpr size_t kContextScaleBytes = 4;  // a float after the packed bits of a context

struct ShardArrays {
  PackedInts codes_T;
  std::span<const uint8_t> residuals;  // T·B
  std::span<const uint8_t> scales_T;
  std::span<const uint8_t> contexts;  // N·(B + 4), or empty
  PackedInts offsets_N1;
  PostingLists postings;
  int bits = 0;
  std::span<const float> levels;
  std::span<const float> alpha;
  std::span<const float> beta;
  std::span<const float> centroids_f32;  // C·D, or empty
  bool normalize = false;
};

// Probed centroids as a caller gives them: [L][P], score descending.
struct Probes {
  std::span<const int32_t> ids_LP;
  std::span<const float> scores_LP;
  size_t per_token = 0;
};

// Throws std::invalid_argument where a kernel cannot take them.
void check_probes(const Probes& probes, size_t tokens, size_t centroids);

// How much of a shard a search looks at; `Shard.search` in reference/shard.py tells what each
// means.
struct Budget {
  size_t candidates;
  float margin;
  size_t scored;
  float missed;
  float spread;
};

struct Hits {
  std::vector<int64_t> pids;
  std::vector<float> scores;
  size_t touched = 0;
  size_t scored = 0;
};

// seconds of the monotonic clock; 0 is never
class Deadline {
 public:
  explicit Deadline(double seconds) : seconds_(seconds) {}
  void check(const char* stage) const;

 private:
  double seconds_;
};

// A range of tokens.
struct Range {
  size_t begin, end;
};

class Shard {
 public:
  // Throws std::invalid_argument naming what is wrong. `table` and the arrays must outlive it.
  Shard(const CentroidTable& table, const ShardArrays& arrays);

  size_t passages() const { return arrays_.offsets_N1.size() - 1; }
  size_t tokens() const { return arrays_.scales_T.size(); }
  size_t dim() const { return table_.dim(); }

  using Allowed = std::optional<std::span<const uint8_t>>;
  Hits search(std::span<const float> Q_LD, const Probes& probes, size_t k, const Budget& budget,
              Allowed allowed, Deadline deadline) const;
  // pids and estimated scores of every passage in a window that the probes touch, the pids
  // ascending; `allowed` is the window's
  Hits approximate(std::span<const float> Q_LD, const Probes& probes, Allowed allowed,
                   Range window) const;
  Hits exhaustive(std::span<const float> Q_LD, size_t k, Allowed allowed, Deadline deadline) const;
  // scores[i] of pids[i], by centroid interaction and precisely
  void interaction(std::span<const float> Q_LD, std::span<const int64_t> pids, float* scores) const;
  void score(std::span<const float> Q_LD, std::span<const int64_t> pids, float* scores) const;
  // best[l]: index in the passage; ties by the smaller
  void match(std::span<const float> Q_LD, int64_t pid, int32_t* best, float* scores) const;
  // vectors: [count][D]
  void decode(int64_t first_token, int64_t count, float* vectors) const;

  // Throws std::invalid_argument unless the shard has these tokens.
  void check_tokens(int64_t first_token, int64_t count) const;

  // For tests: makes the stamps of the next scratch run out within the next query.
  void age_scratch() const;

 private:
  // accumulate.cpp
  size_t find_candidates(const Probes& probes, size_t wanted, const Budget& budget, Allowed allowed,
                         Deadline deadline, Scratch& scratch) const;
  void accumulate(const Probes& probes, Allowed allowed, Range window, Scratch& scratch) const;
  void walk_list(size_t count, uint32_t addend, uint32_t first_stamp, uint32_t stamp,
                 Allowed allowed, Scratch& scratch) const;
  void prefetch_lists(const Probes& probes, size_t probe) const;
  void estimate_scores(const Probes& probes, Scratch& scratch) const;
  // interaction.cpp
  void interact(Deadline deadline, Scratch& scratch) const;
  void keep_by_interaction(size_t most, Deadline deadline, Scratch& scratch) const;
  void interact_batch(size_t first, size_t count, const QueryBlock& block, const float* gains,
                      const float* steps, const int16_t* rows, Scratch& scratch) const;
  const int16_t* all_rows(std::span<const uint32_t> pids, const QueryBlock& block,
                          const float* gains, Scratch& scratch) const;
  // scan.cpp
  void scan(std::span<const uint32_t> pids, Deadline deadline, float* totals,
            Scratch& scratch) const;
  bool keeps_dots(size_t passages) const;
  struct ScanRows;
  ScanRows rows_to_scan(std::span<const uint32_t> pids, const QueryBlock& block,
                        Scratch& scratch) const;
  void scan_batch(std::span<const uint32_t> pids, const QueryBlock& block, bool keep_dots,
                  const ScanRows& centroid_rows, float* totals, Scratch& scratch) const;
  void find_spans(std::span<const uint32_t> pids, Scratch& scratch) const;
  void find_codes(Scratch& scratch) const;
  void find_weights(Scratch& scratch) const;
  void find_lengths(Scratch& scratch) const;
  size_t assign_rows(Scratch& scratch) const;
  const int16_t* batch_rows(const QueryBlock& block, const float* gains, Scratch& scratch) const;
  // contexts.cpp
  void pack_query(std::span<const float> Q_LD, Scratch& scratch) const;
  bool has_contexts() const { return !arrays_.contexts.empty(); }
  float context_scale(size_t pid) const;
  void add_contexts(std::span<const uint32_t> pids, float* scores, Scratch& scratch) const;
  void add_context(size_t pid, size_t count, float* vectors) const;
  // stopping.cpp
  void score_enough(size_t k, const Budget& budget, Deadline deadline, Scratch& scratch) const;
  // precise.cpp
  void precise(std::span<const uint32_t> pids, Deadline deadline, float* totals,
               Scratch& scratch) const;
  template <bool kWithTokens>
  void best_of_passage(uint32_t pid, Scratch& scratch) const;
  size_t decode_tile(size_t begin, size_t end, Scratch& scratch) const;
  // shard.cpp
  size_t token_bytes() const { return dim() * static_cast<size_t>(arrays_.bits) / 8; }
  const uint8_t* context_row(size_t pid) const {
    return arrays_.contexts.data() + pid * (token_bytes() + kContextScaleBytes);
  }
  size_t passage_of(size_t token) const;
  Range passage_span(size_t pid) const;
  uint32_t code(size_t token) const;
  void check_pid(int64_t pid) const;
  void check_allowed(const Allowed& allowed) const;
  void all_passages(const Allowed& allowed, std::vector<uint32_t>& pids) const;
  void rank_keys(Scratch& scratch) const;
  void take_keys(Scratch& scratch) const;
  Hits rank(size_t k, Scratch& scratch) const;

  const CentroidTable& table_;
  ShardArrays arrays_;
  std::vector<float> weight_;  // [256] beta · level_step
  float level_step_ = 0;
  std::vector<float> levels_;      // [64] repeated to fill
  std::vector<int8_t> levels_i8_;  // [64] the same as int8
  bool trellis_;                   // residuals are bits along the trellis; else planes
  bool on_grid_;                   // a token is exactly what int8 centroids and levels say
};

}  // namespace tartan
