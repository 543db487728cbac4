// Centroid interaction (PLAID, stage 3): MaxSim of candidates with every token taken for its
// centroid.
//
// The score of every centroid for every query token is an int16, so that a row of 32 is one cache
// line and a passage costs one load and one maximum a token. Rows are computed as tokens ask for
// them, or all at once where the candidates have so many tokens that most will be asked for.
#include <algorithm>
#include <cmath>

#include "cpu.hpp"
#include "scratch.hpp"
#include "select.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

constexpr float kLargestRow = 32000.0f;  // of an int16, with room for rounding

}  // namespace

// gains[lane]: what a dot · c_scale is multiplied by to use the range of an int16; 0 for no token.
// steps[lane]: what a score in such units is worth.
void Shard::find_gains(const QueryBlock& block, float* gains, float* steps) const {
  for (int lane = 0; lane < block.lanes(); ++lane) {
    const double longest = std::sqrt(static_cast<double>(block.squares[lane])) * table_.longest();
    const bool used = lane < block.tokens && longest > 0;
    gains[lane] = used ? kLargestRow / static_cast<float>(longest) : 0.0f;
    steps[lane] = used ? block.scales[lane] / gains[lane] : 0.0f;
  }
}

void Shard::interact_batch(size_t first, size_t count, const QueryBlock& block, const float* gains,
                           const float* steps, bool all_rows, Scratch& scratch) const {
  const LeafScope leaf;
  const size_t lanes = static_cast<size_t>(block.lanes());
  find_spans(std::span(scratch.pids).subspan(first, count), scratch);
  find_codes(scratch);
  if (!all_rows) {
    const size_t known = scratch.rows;
    assign_rows(scratch);
    scratch.rows_i16.grow(scratch.rows * lanes);
    leaf->centroid_rows(table_.view(), scratch.missing.data(), scratch.rows - known, block, gains,
                        scratch.rows_i16.data() + known * lanes);
  }
  const uint32_t* row = scratch.token_codes.data();
  for (size_t i = 0; i < count; ++i) {
    const size_t tokens = scratch.spans[i].end - scratch.spans[i].begin;
    alignas(64) int16_t best[kBlock];
    leaf->largest_row(scratch.rows_i16.data(), row, tokens, block.lanes(), best);
    row += tokens;
    float total = scratch.scores[first + i];
    for (int lane = 0; lane < block.tokens; ++lane) {
      total += static_cast<float>(best[lane]) * steps[lane];
    }
    scratch.scores[first + i] = total;
  }
}

// Cuts scratch.pids to the `kept` best by their centroids, in ascending order.
void Shard::interact(size_t kept, Deadline deadline, Scratch& scratch) const {
  size_t tokens = 0;
  for (const uint32_t pid : scratch.pids) {
    const Range span = passage_span(pid);
    tokens += span.end - span.begin;
  }
  const bool all_rows = tokens >= table_.centroids();
  scratch.scores.assign(scratch.pids.size(), 0.0f);
  for (const QueryBlock& block : scratch.query.blocks()) {
    alignas(64) float gains[kBlock], steps[kBlock];
    find_gains(block, gains, steps);
    scratch.row_epoch = scratch.row_of.begin(table_.centroids(), 1);
    scratch.rows = 0;
    if (all_rows) {
      deadline.check("centroid scores");
      const LeafScope leaf;
      const size_t lanes = static_cast<size_t>(block.lanes());
      leaf->centroid_rows(table_.view(), nullptr, table_.centroids(), block, gains,
                          scratch.rows_i16.grow(table_.centroids() * lanes));
    }
    for (size_t first = 0; first < scratch.pids.size(); first += kBatch) {
      deadline.check("centroid interaction");
      const size_t count = std::min(kBatch, scratch.pids.size() - first);
      interact_batch(first, count, block, gains, steps, all_rows, scratch);
    }
  }
  scratch.keys.clear();
  for (size_t i = 0; i < scratch.pids.size(); ++i) {
    scratch.keys.push_back(rank_key(scratch.scores[i], scratch.pids[i]));
  }
  keep_best(scratch.keys, kept);
  scratch.pids.clear();
  for (const uint64_t key : scratch.keys) scratch.pids.push_back(key_id(key));
  std::sort(scratch.pids.begin(), scratch.pids.end());
}

}  // namespace tartan
