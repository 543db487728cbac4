// MaxSim of passages with int8 centroids and levels and both planes of the query.
//
// Passages are taken in batches. Where the dots of centroids are kept, or their rows, every token
// first finds the row that belongs to its code, or asks for it, and the rows that are missing are
// computed together; then the tokens are scanned. A query of more than 32 tokens passes block after
// block.
#include <algorithm>
#include <cmath>

#include "cpu.hpp"
#include "leaf.hpp"
#include "scratch.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

void prefetch(const void* begin, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) {
    __builtin_prefetch(static_cast<const char*>(begin) + at);
  }
}

}  // namespace

// The passages' tokens, with the codes that will be read of them asked for ahead of time.
void Shard::find_spans(std::span<const uint32_t> pids, Scratch& scratch) const {
  for (const uint32_t pid : pids) arrays_.offsets_N1.prefetch(pid, pid + 2);
  scratch.spans.clear();
  for (const uint32_t pid : pids) {
    const Range span = passage_span(pid);
    scratch.spans.push_back(span);
    arrays_.codes_T.prefetch(span.begin, span.end);
  }
}

// Fills token_codes for every token of the spans.
void Shard::find_codes(Scratch& scratch) const {
  scratch.tokens = 0;
  for (const Range& span : scratch.spans) scratch.tokens += span.end - span.begin;
  uint32_t* out = scratch.token_codes.grow(scratch.tokens);
  const uint32_t last = static_cast<uint32_t>(table_.centroids() - 1);
  for (const Range& span : scratch.spans) {
    arrays_.codes_T.unpack(span.begin, span.end, out);
    uint32_t differences = 0;  // of which a negative one has its highest bit set
    for (size_t token = span.begin; token < span.end; ++token) differences |= last - *out++;
    if (differences >> 31 == 0) continue;
    for (size_t token = span.begin; token < span.end; ++token) code(token);  // throws
  }
}

// What each token's centroid and residual are multiplied by.
void Shard::find_weights(Scratch& scratch) const {
  float* centroid_weight = scratch.centroid_weights.grow(scratch.tokens);
  float* residual_weight = scratch.residual_weights.grow(scratch.tokens);
  const uint32_t* code = scratch.token_codes.data();
  const float* const c_scales = table_.view().scales;
  for (const Range& span : scratch.spans) {
    for (size_t token = span.begin; token < span.end; ++token) {
      const uint8_t scale = arrays_.scales_T[token];
      *centroid_weight++ = arrays_.alpha[scale] * c_scales[*code++];
      *residual_weight++ = weight_[scale];
    }
  }
}

// What each token's row and levels are multiplied by at a first look, and its length at most.
void Shard::find_lengths(Scratch& scratch) const {
  float* alpha = scratch.alphas.grow(scratch.tokens);
  float* look_weight = scratch.look_weights.grow(scratch.tokens);
  float* length = scratch.lengths.grow(scratch.tokens);
  const float of_levels = 127.0f * std::sqrt(static_cast<float>(dim()));
  for (const Range& span : scratch.spans) {
    for (size_t token = span.begin; token < span.end; ++token) {
      const uint8_t scale = arrays_.scales_T[token];
      *alpha = arrays_.alpha[scale];
      *look_weight++ = weight_[scale] * kCoarseStep;
      *length++ = std::fabs(*alpha++) * table_.longest() + std::fabs(weight_[scale]) * of_levels;
    }
  }
}

// Gives each token of a batch its row of what is kept of centroids; fills `missing` with the codes
// of new rows, and returns how many there were before.
size_t Shard::assign_rows(Scratch& scratch) const {
  const size_t known = scratch.rows;
  const uint32_t* const codes = scratch.token_codes.data();
  uint32_t* const rows_of = scratch.token_rows.grow(scratch.tokens);
  uint32_t* missing = scratch.missing.grow(scratch.tokens);
  auto* const slots = scratch.row_of.data();
  const uint32_t epoch = scratch.row_epoch;
  uint32_t rows = scratch.rows;
  for (size_t t = 0; t < scratch.tokens; ++t) {
    auto& slot = slots[codes[t]];
    if (slot.stamp != epoch) {
      slot = {epoch, rows++};
      *missing++ = codes[t];
    }
    rows_of[t] = slot.value;
  }
  scratch.rows = rows;
  return known;
}

// The int16 rows that token_rows names, those computed that no batch before had.
const int16_t* Shard::batch_rows(const QueryBlock& block, const float* gains,
                                 Scratch& scratch) const {
  const size_t lanes = static_cast<size_t>(block.lanes());
  const size_t known = assign_rows(scratch);
  int16_t* const rows = scratch.rows_i16.grow(scratch.rows * lanes);
  active_leaf().centroid_rows(table_.view(), scratch.missing.data(), scratch.rows - known, block,
                              gains, rows + known * lanes);
  return rows;
}

// Whether the dots of centroids are kept: where passages have so many tokens that most of them are
// asked for again.
bool Shard::keeps_dots(size_t passages) const {
  if (active_leaf().scans_rows) return false;
  if (!active_leaf().multiplies_centroids) return true;
  const size_t mean_tokens = tokens() / std::max<size_t>(1, this->passages());
  return passages * mean_tokens >= table_.centroids();
}

// Where rows of centroids are scanned: what they are made and read with, and those of all, or null.
struct Shard::ScanRows {
  alignas(64) float gains[kBlock], steps[kBlock];
  const int16_t* all = nullptr;
};

Shard::ScanRows Shard::rows_to_scan(std::span<const uint32_t> pids, const QueryBlock& block,
                                    Scratch& scratch) const {
  ScanRows rows;
  table_.find_gains(block, rows.gains);
  for (int lane = 0; lane < block.lanes(); ++lane) {
    rows.steps[lane] = rows.gains[lane] > 0 ? kCoarseStep / rows.gains[lane] : 0.0f;
  }
  if (scratch.every_row != nullptr) {
    rows.all = scratch.every_row;
  } else if (!scratch.rows_known) {
    rows.all = all_rows(pids, block, rows.gains, scratch);
  }
  return rows;
}

void Shard::scan_batch(std::span<const uint32_t> pids, const QueryBlock& block, bool keep_dots,
                       const ScanRows& centroid_rows, float* totals, Scratch& scratch) const {
  const LeafScope leaf;
  const size_t lanes = static_cast<size_t>(block.lanes());
  find_spans(pids, scratch);
  for (const Range& span : scratch.spans) {
    prefetch(arrays_.scales_T.data() + span.begin, span.end - span.begin);
  }
  find_codes(scratch);
  find_weights(scratch);
  ScanTables tables;
  const uint32_t* rows = scratch.token_codes.data();
  if (keep_dots) {
    const size_t known = assign_rows(scratch);
    tables.kept = scratch.kept.grow(scratch.rows * lanes);
    leaf->centroid_dots(table_.view(), scratch.missing.data(), scratch.rows - known, block,
                        scratch.kept.data() + known * lanes);
    rows = scratch.token_rows.data();
  } else if (leaf->scans_rows) {
    find_lengths(scratch);
    tables.row_steps = centroid_rows.steps;
    tables.kept_rows = centroid_rows.all;
    if (centroid_rows.all == nullptr) {
      tables.kept_rows = batch_rows(block, centroid_rows.gains, scratch);
      rows = scratch.token_rows.data();
    }
  }
  tables.bits = arrays_.bits;
  tables.centroids = table_.view();
  tables.levels = levels_i8_.data();
  tables.tile = scratch.tile.grow(tile_bytes(dim()));
  tables.centroid_tile = scratch.centroid_tile.grow(tile_bytes(dim()));
  const size_t bytes = dim() * static_cast<size_t>(arrays_.bits) / 8;
  size_t done = 0;
  for (size_t i = 0; i < pids.size(); ++i) {
    const Range span = scratch.spans[i];
    ScanTokens tokens;
    tokens.residuals = arrays_.residuals.data() + span.begin * bytes;
    tokens.residuals_end = arrays_.residuals.data() + arrays_.residuals.size();
    tokens.rows = rows + done;
    if (leaf->scans_rows) {
      tokens.codes = scratch.token_codes.data() + done;
      tokens.alphas = scratch.alphas.data() + done;
      tokens.look_weights = scratch.look_weights.data() + done;
      tokens.lengths = scratch.lengths.data() + done;
    }
    tokens.centroid_weights = scratch.centroid_weights.data() + done;
    tokens.residual_weights = scratch.residual_weights.data() + done;
    tokens.count = span.end - span.begin;
    tokens.rows_known = scratch.tokens - done;
    if (i + 1 < pids.size()) {
      const Range next = scratch.spans[i + 1];
      tokens.next = arrays_.residuals.data() + next.begin * bytes;
      tokens.next_bytes = (next.end - next.begin) * bytes;
    }
    done += tokens.count;
    alignas(64) float best[kBlock];
    leaf->scan(tokens, tables, block, best);
    float total = totals[i];
    for (int lane = 0; lane < block.tokens; ++lane) total += best[lane];
    totals[i] = total;
  }
}

void Shard::scan(std::span<const uint32_t> pids, Deadline deadline, float* totals,
                 Scratch& scratch) const {
  std::fill_n(totals, pids.size(), 0.0f);
  const bool keep_dots = keeps_dots(pids.size());
  const bool scans_rows = active_leaf().scans_rows;
  if (scans_rows) scratch.kept_rows = table_.kept_rows(scratch.query);
  for (const QueryBlock& block : scratch.query.blocks()) {
    if (!scans_rows || !scratch.rows_known) {
      scratch.row_epoch = scratch.row_of.begin(table_.centroids(), 1);
      scratch.rows = 0;
    }
    const ScanRows centroid_rows = scans_rows ? rows_to_scan(pids, block, scratch) : ScanRows();
    if (scans_rows && scratch.query.blocks().size() == 1) {
      scratch.rows_known = centroid_rows.all == nullptr;
      scratch.every_row = scratch.kept_rows ? nullptr : centroid_rows.all;
    }
    for (size_t first = 0; first < pids.size(); first += kBatch) {
      deadline.check("precise scoring");
      const size_t count = std::min(kBatch, pids.size() - first);
      scan_batch(pids.subspan(first, count), block, keep_dots, centroid_rows, totals + first,
                 scratch);
    }
  }
  scratch.kept_rows.reset();
  add_contexts(pids, totals, scratch);
}

}  // namespace tartan
