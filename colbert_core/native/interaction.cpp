// Centroid interaction (PLAID, stage 3): MaxSim of candidates with every token taken for its
// centroid.
//
// The score of every centroid for every query token is an int16, so that a row of 32 is one cache
// line and a passage costs one load and one maximum a token. In the process that probed they are at
// hand; elsewhere they are computed as tokens ask for them, or all at once.
#include <algorithm>
#include <cmath>

#include "cpu.hpp"
#include "scratch.hpp"
#include "select.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

// What a score in int16 units is worth, per lane.
void find_steps(const QueryBlock& block, const float* gains, float* steps) {
  for (int lane = 0; lane < block.lanes(); ++lane) {
    steps[lane] = gains[lane] > 0 ? block.coarse_scales[lane] / gains[lane] : 0.0f;
  }
}

}  // namespace

void Shard::interact_batch(size_t first, size_t count, const QueryBlock& block, const float* gains,
                           const float* steps, const int16_t* rows, Scratch& scratch) const {
  const LeafScope leaf;
  find_spans(std::span(scratch.pids).subspan(first, count), scratch);
  find_codes(scratch);
  const uint32_t* row = scratch.token_codes.data();
  if (rows == nullptr) {
    rows = batch_rows(block, gains, scratch);
    row = scratch.token_rows.data();
  }
  for (size_t i = 0; i < count; ++i) {
    const size_t tokens = scratch.spans[i].end - scratch.spans[i].begin;
    alignas(64) int16_t best[kBlock];
    leaf->largest_row(rows, row, tokens, block.lanes(), best);
    row += tokens;
    float total = scratch.scores[first + i];
    for (int lane = 0; lane < block.tokens; ++lane) {
      total += static_cast<float>(best[lane]) * steps[lane];
    }
    scratch.scores[first + i] = total;
  }
}

// The rows of all centroids for one block: what probing left, or computed now where the passages
// have so many tokens that most will be asked for; else null.
const int16_t* Shard::all_rows(std::span<const uint32_t> pids, const QueryBlock& block,
                               const float* gains, Scratch& scratch) const {
  const size_t centroids = table_.centroids();
  if (scratch.kept_rows) return scratch.kept_rows->of(static_cast<size_t>(block.first), centroids);
  size_t tokens = 0;
  for (const uint32_t pid : pids) {
    const Range span = passage_span(pid);
    tokens += span.end - span.begin;
  }
  if (tokens < centroids) return nullptr;
  const LeafScope leaf;
  int16_t* const rows = scratch.rows_i16.grow(centroids * static_cast<size_t>(block.lanes()));
  leaf->centroid_rows(table_.view(), nullptr, centroids, block, gains, rows);
  return rows;
}

// Fills scratch.scores with those of scratch.pids by their centroids.
void Shard::interact(Deadline deadline, Scratch& scratch) const {
  scratch.scores.assign(scratch.pids.size(), 0.0f);
  scratch.kept_rows = table_.kept_rows(scratch.query);
  for (const QueryBlock& block : scratch.query.blocks()) {
    alignas(64) float gains[kBlock], steps[kBlock];
    table_.find_gains(block, gains);
    find_steps(block, gains, steps);
    scratch.row_epoch = scratch.row_of.begin(table_.centroids(), 1);
    scratch.rows = 0;
    const int16_t* const rows = all_rows(scratch.pids, block, gains, scratch);
    for (size_t first = 0; first < scratch.pids.size(); first += kBatch) {
      deadline.check("centroid interaction");
      const size_t count = std::min(kBatch, scratch.pids.size() - first);
      interact_batch(first, count, block, gains, steps, rows, scratch);
    }
    const bool of_all_tokens = scratch.query.blocks().size() == 1;
    scratch.rows_known = of_all_tokens && rows == nullptr;
    scratch.every_row = of_all_tokens && rows != nullptr && !scratch.kept_rows ? rows : nullptr;
  }
  scratch.kept_rows.reset();
  add_contexts(scratch.pids, scratch.scores.data(), scratch);
}

// Leaves the keys of the best candidates by their centroids in scratch.keys, in no order.
void Shard::keep_by_interaction(size_t most, Deadline deadline, Scratch& scratch) const {
  interact(deadline, scratch);
  rank_keys(scratch);
  keep_best(scratch.keys, most);
}

void Shard::interaction(std::span<const float> Q_LD, std::span<const int64_t> pids,
                        float* scores) const {
  for (const int64_t pid : pids) check_pid(pid);
  auto scratch = table_.scratches().borrow();
  pack_query(Q_LD, *scratch);
  scratch->pids.assign(pids.begin(), pids.end());
  interact(Deadline(0), *scratch);
  std::copy(scratch->scores.begin(), scratch->scores.end(), scores);
}

}  // namespace tartan
