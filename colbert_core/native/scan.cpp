// Approximate MaxSim of the candidates with int8 queries, centroids and levels.
//
// Passages are taken in batches. First every token finds the row of centroid scores that belongs to
// its code, or asks for it; then the rows that are missing are computed together; then the tokens
// are scanned. A query of more than 32 tokens passes block after block.
#include <algorithm>

#include "cpu.hpp"
#include "leaf.hpp"
#include "scratch.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

constexpr size_t kTokensAhead = 128;  // of the next passage; the processor's own prefetcher follows

void prefetch(const void* begin, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) {
    __builtin_prefetch(static_cast<const char*>(begin) + at);
  }
}

}  // namespace

// The passages' tokens, with everything that will be read of them asked for ahead of time.
void Shard::find_spans(std::span<const uint32_t> pids, Scratch& scratch) const {
  for (const uint32_t pid : pids) arrays_.offsets_N1.prefetch(pid, pid + 2);
  scratch.spans.clear();
  for (const uint32_t pid : pids) {
    const Range span = passage_span(pid);
    scratch.spans.push_back(span);
    arrays_.codes_T.prefetch(span.begin, span.end);
  }
}

// Fills token_rows for every token of the spans, and `missing`.
void Shard::assign_rows(Scratch& scratch) const {
  size_t tokens = 0;
  for (const Range& span : scratch.spans) tokens += span.end - span.begin;
  uint32_t* row = scratch.token_rows.grow(tokens);
  uint32_t* missing = scratch.missing.grow(tokens);
  auto* const slots = scratch.row_of.data();
  const size_t centroids = table_.centroids();
  const uint32_t epoch = scratch.row_epoch;
  uint32_t rows = scratch.rows;
  for (const Range& span : scratch.spans) {
    arrays_.codes_T.unpack(span.begin, span.end, row);
    for (size_t token = span.begin; token < span.end; ++token) {
      const uint32_t code = *row;
      if (code >= centroids) this->code(token);  // throws
      auto& slot = slots[code];
      if (slot.stamp != epoch) {
        slot = {epoch, rows++};
        *missing++ = code;
      }
      *row++ = slot.value;
    }
  }
  scratch.rows = rows;
}

void Shard::scan_batch(std::span<const uint32_t> pids, const QueryBlock& block, float* totals,
                       Scratch& scratch) const {
  const Leaf& leaf = active_leaf();
  const size_t lanes = static_cast<size_t>(block.lanes());
  const size_t known = scratch.rows;
  find_spans(pids, scratch);
  assign_rows(scratch);
  scratch.S.grow(scratch.rows * lanes);
  leaf.centroid_scores(table_.view(), scratch.missing.data(), scratch.rows - known, block,
                       scratch.S.data() + known * lanes);

  ScanTables tables;
  tables.bits = arrays_.bits;
  tables.dim = dim();
  tables.S = scratch.S.data();
  tables.alpha = arrays_.alpha.data();
  tables.weight = weight_.data();
  tables.levels = levels_i8_.data();
  tables.tile = scratch.tile.grow(tile_bytes(dim()));
  const size_t bytes = dim() * static_cast<size_t>(arrays_.bits) / 8;
  const uint32_t* rows = scratch.token_rows.data();
  for (size_t i = 0; i < pids.size(); ++i) {
    const Range span = scratch.spans[i];
    if (i + 1 < pids.size()) {
      const Range next = scratch.spans[i + 1];
      const size_t tokens = std::min<size_t>(next.end - next.begin, kTokensAhead);
      prefetch(arrays_.residuals.data() + next.begin * bytes, tokens * bytes);
      prefetch(arrays_.scales_T.data() + next.begin, tokens);
    }
    ScanTokens tokens;
    tokens.residuals = arrays_.residuals.data() + span.begin * bytes;
    tokens.residuals_end = arrays_.residuals.data() + arrays_.residuals.size();
    tokens.scales = arrays_.scales_T.data() + span.begin;
    tokens.rows = rows;
    tokens.count = span.end - span.begin;
    rows += tokens.count;
    alignas(64) float best[kBlock];
    leaf.scan(tokens, tables, block, best);
    float total = totals[i];
    for (int lane = 0; lane < block.tokens; ++lane) total += best[lane];
    totals[i] = total;
  }
}

void Shard::scan(Deadline deadline, Scratch& scratch) const {
  const std::span<const uint32_t> pids = scratch.pids;
  scratch.scores.assign(pids.size(), 0.0f);
  for (const QueryBlock& block : scratch.query.blocks()) {
    scratch.row_epoch = scratch.row_of.begin(table_.centroids(), 1);
    scratch.rows = 0;
    for (size_t first = 0; first < pids.size(); first += kBatch) {
      deadline.check("scan");
      const size_t count = std::min(kBatch, pids.size() - first);
      scan_batch(pids.subspan(first, count), block, scratch.scores.data() + first, scratch);
    }
  }
}

}  // namespace tartan
