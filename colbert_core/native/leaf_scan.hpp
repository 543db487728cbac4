// MaxSim of one passage's tokens.
#pragma once

#include "leaf_dots.hpp"

namespace tartan {
namespace {

// centroid_weight · dot(centroid) + residual_weight · dot(levels)
template <class V>
TARTAN_INLINE typename V::F token_score(typename V::F centroid, typename V::F residual,
                                        const ScanTokens& tokens, size_t token) {
  return V::add(V::mul(V::splat(tokens.centroid_weights[token]), centroid),
                V::mul(V::splat(tokens.residual_weights[token]), residual));
}

// Asks for the part of the next passage that lies where `count` tokens of this one do: bit by bit,
// for a processor waits where it is asked for more lines than can be under way.
inline void prefetch_next(const ScanTokens& tokens, size_t first, size_t count, size_t bytes) {
  const size_t end = (first + count) * bytes;
  for (size_t at = first * bytes; at < end && at < tokens.next_bytes; at += 64) {
    __builtin_prefetch(tokens.next + at);
  }
}

// One tile of R tokens from `first` on (the last one repeated where the passage ends) into `best`.
template <class V, int G, int R>
TARTAN_INLINE void scan_tile(const ScanTokens& tokens, size_t first, const ScanTables& tables,
                             const typename V::Windows& levels, const QueryBlock& query,
                             typename V::F (&best)[G]) {
  const size_t dim = tables.centroids.dim;
  const size_t stride = tile_stride(dim);
  const size_t bytes = dim * tables.bits / 8;
  uint8_t* const spare = tables.tile + kTileRows * stride;
  prefetch_next(tokens, first, R, bytes);
  const uint8_t* rows[R];
  const float* centroid_row[R];
  size_t at[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    at[r] = first + r < tokens.count ? first + r : tokens.count - 1;
    centroid_row[r] = tables.kept + static_cast<size_t>(tokens.rows[at[r]]) * kRowLanes<V, G>;
    for (int g = 0; g < G; ++g) __builtin_prefetch(centroid_row[r] + g * V::kLanes);
    const uint8_t* packed =
        packed_token(tokens.residuals + at[r] * bytes, tokens.residuals_end, bytes, spare);
    unpack_windows<V>(packed, tables.bits, dim, levels, tables.tile + r * stride);
    rows[r] = tables.tile + r * stride;
  }
  typename V::F dots[R][G];
  const int32_t no_sums[R] = {};
  query_dots<V, G, R, true, Planes::kBoth>(rows, no_sums, query, dots);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const typename V::F centroid = V::load(centroid_row[r] + g * V::kLanes);
      best[g] = V::max(best[g], token_score<V>(centroid, dots[r][g], tokens, at[r]));
    }
  }
}

// The 64 levels as V::dot wants them.
template <class V>
inline typename V::Windows load_levels(const int8_t* levels) {
  alignas(64) uint8_t biased[kTrellisLevels];
  for (int i = 0; i < kTrellisLevels; ++i) biased[i] = static_cast<uint8_t>(levels[i] + V::kBias);
  return V::load_windows(biased);
}

template <class V, int G>
void scan_vectors(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
                  float* best) {
  constexpr int R = V::template kTile<G>;
  const typename V::Windows levels = load_levels<V>(tables.levels);
  typename V::F running[G];
  for (int g = 0; g < G; ++g) running[g] = V::splat(-__builtin_inff());
  size_t first = 0;
  for (; first + R / 2 < tokens.count; first += R) {
    scan_tile<V, G, R>(tokens, first, tables, levels, query, running);
  }
  if (first < tokens.count) {
    scan_tile<V, G, R / 2>(tokens, first, tables, levels, query, running);
  }
  for (int g = 0; g < G; ++g) {
    V::store(best + g * V::kLanes, V::mul(running[g], V::load(query.scales + g * V::kLanes)));
  }
}

// As `scan_tile`, of one query token and without centroids.
template <class V>
void level_dots(const uint8_t* const* packed, size_t count, const uint8_t* end,
                const ScanTables& tables, const QueryBlock& query, float* dots) {
  constexpr int R = V::template kTile<1>;
  const typename V::Windows levels = load_levels<V>(tables.levels);
  const size_t dim = tables.centroids.dim;
  const size_t stride = tile_stride(dim);
  const size_t bytes = dim * tables.bits / 8;
  uint8_t* const spare = tables.tile + kTileRows * stride;
  for (size_t first = 0; first < count; first += R) {
    const uint8_t* rows[R];
    for (int r = 0; r < R; ++r) {
      const size_t at = first + r < count ? first + r : count - 1;
      uint8_t* const row = tables.tile + r * stride;
      unpack_windows<V>(packed_token(packed[at], end, bytes, spare), tables.bits, dim, levels, row);
      rows[r] = row;
    }
    typename V::F lanes[R][1];
    const int32_t no_sums[R] = {};
    query_dots<V, 1, R, true, Planes::kBoth>(rows, no_sums, query, lanes);
    for (int r = 0; r < R && first + r < count; ++r) {
      alignas(64) float values[V::kLanes];
      V::store(values, lanes[r][0]);
      dots[first + r] = values[0];
    }
  }
}

}  // namespace
}  // namespace tartan
