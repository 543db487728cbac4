// Precise MaxSim. Where centroids and levels lie on their int8 grids (`tartan`), a scan with both
// planes of the query is it; otherwise vectors are decoded to float32, tile by tile.
#include <algorithm>

#include "cpu.hpp"
#include "leaf.hpp"
#include "scratch.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

constexpr size_t kTileTokens = 32;

}  // namespace

// Decodes up to kTileTokens tokens from `begin` on into scratch.vectors; how many.
size_t Shard::decode_tile(size_t begin, size_t end, Scratch& scratch) const {
  const size_t count = std::min(kTileTokens, end - begin);
  scratch.codes.resize(count);
  for (size_t t = 0; t < count; ++t) scratch.codes[t] = code(begin + t);
  const size_t bytes = dim() * static_cast<size_t>(arrays_.bits) / 8;
  DecodeTokens tokens;
  tokens.residuals = arrays_.residuals.data() + begin * bytes;
  tokens.residuals_end = arrays_.residuals.data() + arrays_.residuals.size();
  tokens.scales = arrays_.scales_T.data() + begin;
  tokens.codes = scratch.codes.data();
  tokens.count = count;
  DecodeTables tables;
  tables.bits = arrays_.bits;
  tables.trellis = trellis_;
  tables.dim = dim();
  tables.normalize = arrays_.normalize;
  tables.centroids = table_.view();
  tables.centroids_f32 = arrays_.centroids_f32.empty() ? nullptr : arrays_.centroids_f32.data();
  tables.alpha = arrays_.alpha.data();
  tables.beta = arrays_.beta.data();
  tables.levels = levels_.data();
  tables.tile = scratch.tile.grow(tile_bytes(dim()));
  active_leaf().decode(tokens, tables, scratch.vectors.grow(kTileTokens * vector_stride(dim())));
  return count;
}

// Fills scratch.best, and scratch.best_token if wanted: per query token the passage's best token.
template <bool kWithTokens>
void Shard::best_of_passage(uint32_t pid, Scratch& scratch) const {
  const Leaf& leaf = active_leaf();
  const Range span = passage_span(pid);
  scratch.best.assign(scratch.query.tokens(), -std::numeric_limits<float>::infinity());
  scratch.best_token.assign(scratch.query.tokens(), 0);
  float* const dots = scratch.dots.grow(kTileTokens * kBlock);
  for (size_t begin = span.begin; begin < span.end; begin += kTileTokens) {
    const size_t count = decode_tile(begin, span.end, scratch);
    add_context(pid, count, scratch.vectors.data());
    for (const QueryBlock& block : scratch.query.blocks()) {
      leaf.dots(scratch.vectors.data(), count, dim(), block, dots);
      float* const best = scratch.best.data() + block.first;
      [[maybe_unused]] int32_t* const best_token = scratch.best_token.data() + block.first;
      for (size_t t = 0; t < count; ++t) {
        const float* const row = dots + t * static_cast<size_t>(block.lanes());
        [[maybe_unused]] const int32_t token = static_cast<int32_t>(begin - span.begin + t);
        if constexpr (kWithTokens) {
          for (int lane = 0; lane < block.tokens; ++lane) {
            if (row[lane] > best[lane]) best_token[lane] = token;
          }
        }
        for (int lane = 0; lane < block.tokens; ++lane) {
          best[lane] = row[lane] > best[lane] ? row[lane] : best[lane];
        }
      }
    }
  }
}

template void Shard::best_of_passage<true>(uint32_t pid, Scratch& scratch) const;

void Shard::precise(std::span<const uint32_t> pids, Deadline deadline, float* totals,
                    Scratch& scratch) const {
  if (on_grid_) return scan(pids, deadline, totals, scratch);
  for (size_t i = 0; i < pids.size(); ++i) {
    if (i % kBatch == 0) deadline.check("precise scoring");
    best_of_passage<false>(pids[i], scratch);
    float total = 0;
    for (const float best : scratch.best) total += best;
    totals[i] = total;
  }
}

}  // namespace tartan
