// Contexts: one vector a passage that all of its tokens share, packed as a residual is, and a
// scale. What it adds to MaxSim is (Σ q) · context: the same for every token, so that it changes
// nothing of which is the best. colbert_core/reference/contexts.py defines it.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu.hpp"
#include "leaf.hpp"
#include "scratch.hpp"
#include "shard.hpp"

namespace tartan {

// The query, and where passages have contexts the sum of its tokens.
void Shard::pack_query(std::span<const float> Q_LD, Scratch& scratch) const {
  scratch.query.pack(Q_LD, dim());
  scratch.rows_known = false;
  scratch.every_row = nullptr;
  if (!has_contexts()) return;
  scratch.sum_D.assign(dim(), 0.0f);
  for (size_t at = 0; at < Q_LD.size(); at += dim()) {
    for (size_t d = 0; d < dim(); ++d) scratch.sum_D[d] += Q_LD[at + d];
  }
  scratch.query_sum.pack(scratch.sum_D, dim(), kMaxMagnitude * kMaxQueryTokens);
}

// What the levels of a passage's context are multiplied by.
float Shard::context_scale(size_t pid) const {
  float scale;
  std::memcpy(&scale, context_row(pid) + token_bytes(), sizeof scale);
  if (!(std::fabs(scale) <= kMaxMagnitude)) {
    throw CorruptShard("the context of passage " + std::to_string(pid) +
                       " has a scale beyond ±1e6");
  }
  return scale;
}

// Adds what contexts give to the scores of passages.
void Shard::add_contexts(std::span<const uint32_t> pids, float* scores, Scratch& scratch) const {
  if (!has_contexts()) return;
  const Leaf& leaf = active_leaf();
  const QueryBlock& block = scratch.query_sum.blocks().front();
  ScanTables tables;
  tables.bits = arrays_.bits;
  tables.centroids = table_.view();
  tables.levels = levels_i8_.data();
  tables.tile = scratch.tile.grow(tile_bytes(dim()));
  const uint8_t* rows[kBatch];
  float dots[kBatch];
  for (size_t first = 0; first < pids.size(); first += kBatch) {
    const size_t count = std::min(kBatch, pids.size() - first);
    for (size_t i = 0; i < count; ++i) {
      rows[i] = context_row(pids[first + i]);
      __builtin_prefetch(rows[i]);
      __builtin_prefetch(rows[i] + token_bytes());
    }
    leaf.level_dots(rows, count, arrays_.contexts.data() + arrays_.contexts.size(), tables, block,
                    dots);
    for (size_t i = 0; i < count; ++i) {
      const float weight = context_scale(pids[first + i]) * level_step_;
      scores[first + i] += weight * dots[i] * block.scales[0];
    }
  }
}

// Adds a passage's context to vectors that lie vector_stride(dim) apart.
void Shard::add_context(size_t pid, size_t count, float* vectors) const {
  if (!has_contexts()) return;
  const float scale = context_scale(pid);
  const uint8_t* const packed = context_row(pid);
  const size_t bits = static_cast<size_t>(arrays_.bits);
  uint32_t window = 0;
  for (size_t d = 0; d < dim(); ++d) {
    uint32_t own = 0;
    for (size_t i = 0; i < bits; ++i) {
      const size_t bit = d * bits + i;
      own |= (packed[bit / 8] >> (bit % 8) & 1u) << i;
    }
    window = window >> bits | own << (kTrellisWindow - bits);
    const float value = scale * levels_[window];
    for (size_t t = 0; t < count; ++t) vectors[t * vector_stride(dim()) + d] += value;
  }
}

}  // namespace tartan
