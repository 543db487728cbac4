// MaxSim of one passage's tokens in two looks, on paths that multiply bytes slowly: at all of them
// with the query's coarse plane and the rows of centroids, and then precisely at each pair of a
// query token and a token of the passage that may yet be the best. The best is the same float.
//
// What the first look leaves out are the products with what the coarse plane lacks, and what a row
// was rounded by: a score is off by at most tokens.lengths[t] · query.doubts[lane]
// (query_pack.cpp). Of a passage of 181 tokens three or four are looked at again for each query
// token.
#pragma once

#include "leaf_scan.hpp"

namespace tartan {
namespace {

// Scores of the first look at up to `kTileRows` tokens, those from `begin` to `end`.
template <class V, int G>
struct Look {
  static constexpr int kTile = V::template kTile<G>;
  static constexpr int kLanes = G * V::kLanes;

  size_t begin, end;
  float length;                                  // the most of a token
  alignas(64) float scores[kTileRows * kLanes];  // [token][lane]
  uint16_t open[kTileRows * kLanes];  // pairs to be looked at again: token · kLanes + lane
};

// One tile of tokens from `first` on (the last one repeated where the look ends).
template <class V, int G>
TARTAN_INLINE void look_at_tile(const ScanTokens& tokens, size_t first, const ScanTables& tables,
                                const typename V::Windows& levels, const QueryBlock& query,
                                Look<V, G>& look, typename V::F (&most)[G]) {
  constexpr int R = look.kTile;
  const size_t dim = tables.centroids.dim;
  const size_t stride = tile_stride(dim);
  const size_t bytes = dim * tables.bits / 8;
  uint8_t* const spare = tables.tile + kTileRows * stride;
  prefetch_next(tokens, first, R, bytes);
  const uint8_t* rows[R];
  const int16_t* centroids[R];
  size_t at[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    at[r] = first + r < look.end ? first + r : look.end - 1;
    centroids[r] = tables.kept_rows + static_cast<size_t>(tokens.rows[at[r]]) * kRowLanes<V, G>;
    __builtin_prefetch(centroids[r]);
    const uint8_t* packed =
        packed_token(tokens.residuals + at[r] * bytes, tokens.residuals_end, bytes, spare);
    uint8_t* const row = tables.tile + (at[r] - look.begin) * stride;
    unpack_windows<V>(packed, tables.bits, dim, levels, row);
    rows[r] = row;
  }
  typename V::F dots[R][G];
  const int32_t no_sums[R] = {};
  query_dots<V, G, R, true, Planes::kCoarse>(rows, no_sums, query, dots);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const typename V::F alpha = V::splat(tokens.alphas[at[r]]);
    const typename V::F weight = V::splat(tokens.look_weights[at[r]]);
    look.length = tokens.lengths[at[r]] > look.length ? tokens.lengths[at[r]] : look.length;
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const typename V::F step = V::load(tables.row_steps + g * V::kLanes);
      const typename V::F row = V::mul(V::load_i16(centroids[r] + g * V::kLanes), step);
      const typename V::F score = V::add(V::mul(alpha, row), V::mul(weight, dots[r][g]));
      V::store(look.scores + (at[r] - look.begin) * look.kLanes + g * V::kLanes, score);
      most[g] = V::max(most[g], score);
    }
  }
}

// An exact sum over both planes, as the float that is added up.
inline float both_planes(int64_t dot) { return static_cast<float>(dot) * kLowPart; }

// Names in look.open the pairs whose first score is at least the lane's `least`; how many. Without
// a branch for each token: which ones are named is not to be foreseen.
template <class V, int G>
TARTAN_INLINE size_t find_open(const typename V::F (&least)[G], uint32_t used, Look<V, G>& look) {
  static_assert(look.kTile * look.kLanes <= 64);
  size_t count = 0;
  for (size_t first = 0; first < look.end - look.begin; first += look.kTile) {
    uint64_t open = 0;
#pragma GCC unroll 8
    for (int r = 0; r < look.kTile; ++r) {
      uint32_t lanes = 0;
      const float* const scores = look.scores + (first + r) * look.kLanes;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const typename V::F score = V::load(scores + g * V::kLanes);
        lanes |= V::at_least(score, least[g]) << (g * V::kLanes);
      }
      open |= static_cast<uint64_t>(lanes & used) << (r * look.kLanes);
    }
    const size_t pairs_left = (look.end - look.begin - first) * look.kLanes;
    if (pairs_left < 64) open &= (uint64_t{1} << pairs_left) - 1;  // behind them is nothing
    for (; open != 0; open &= open - 1) {
      const size_t pair = first * look.kLanes + static_cast<size_t>(__builtin_ctzll(open));
      look.open[count++] = static_cast<uint16_t>(pair);
    }
  }
  return count;
}

// Leaves in look.open, of `count` pairs, those that may be better than the lane's `best`; how many.
// `done` are first scores that were looked at before: those, or more.
template <class V, int G>
TARTAN_INLINE size_t keep_open(const ScanTokens& tokens, const ScanTables& tables,
                               const QueryBlock& query, size_t count, const float* done,
                               const float* best, Look<V, G>& look) {
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint16_t pair = look.open[i];
    const size_t t = look.begin + pair / look.kLanes, lane = pair % look.kLanes;
    const float score = look.scores[pair];
    prefetch_row(tables.centroids, tokens.codes[t]);
    look.open[kept] = pair;
    kept += static_cast<size_t>((score < done[lane]) &
                                (score + tokens.lengths[t] * query.doubts[lane] >= best[lane]));
  }
  return kept;
}

// Raises `best` by the precise scores of `count` pairs.
template <class V, int G>
TARTAN_INLINE void look_again(const ScanTokens& tokens, const ScanTables& tables,
                              const QueryBlock& query, size_t count, const Look<V, G>& look,
                              float* best) {
  const size_t dim = tables.centroids.dim;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = look.open[i] / look.kLanes, lane = look.open[i] % look.kLanes;
    const size_t t = look.begin + at;
    const auto* const code = reinterpret_cast<const uint8_t*>(tables.centroids.codes) +
                             static_cast<size_t>(tokens.codes[t]) * dim;
    int64_t of_centroid, of_levels;
    V::lane_dots(code, tables.tile + at * tile_stride(dim), query.both + lane * tile_dim(dim), dim,
                 of_centroid, of_levels);
    const float centroid = both_planes(of_centroid);
    const float residual = both_planes(of_levels);
    const float score =
        tokens.centroid_weights[t] * centroid + tokens.residual_weights[t] * residual;
    best[lane] = score > best[lane] ? score : best[lane];
  }
}

template <class V, int G>
void refine_vectors(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
                    float* best) {
  const typename V::Windows levels = load_levels<V>(tables.levels);
  const uint32_t used = ~uint32_t{0} >> (32 - query.tokens);
  Look<V, G> look;
  alignas(64) float done[look.kLanes];
  for (int lane = 0; lane < look.kLanes; ++lane) best[lane] = -__builtin_inff();
  for (look.begin = 0; look.begin < tokens.count; look.begin = look.end) {
    look.end = tokens.count - look.begin > kTileRows ? look.begin + kTileRows : tokens.count;
    look.length = 0;
    typename V::F most[G], least[G];
    for (int g = 0; g < G; ++g) most[g] = V::splat(-__builtin_inff());
    for (size_t first = look.begin; first < look.end; first += look.kTile) {
      look_at_tile<V, G>(tokens, first, tables, levels, query, look, most);
    }
    const auto look_at = [&](const typename V::F(&least)[G]) {
      const size_t found = find_open<V, G>(least, used, look);
      const size_t count = keep_open<V, G>(tokens, tables, query, found, done, best, look);
      look_again<V, G>(tokens, tables, query, count, look, best);
    };
    // The first of each query token is nearly always the best, and leaves few that may be.
    for (int lane = 0; lane < look.kLanes; ++lane) done[lane] = __builtin_inff();
    look_at(most);
    for (int g = 0; g < G; ++g) {
      V::store(done + g * V::kLanes, most[g]);
      const typename V::F doubt =
          V::mul(V::splat(-look.length), V::load(query.doubts + g * V::kLanes));
      least[g] = V::add(V::load(best + g * V::kLanes), doubt);
    }
    look_at(least);
  }
  for (int g = 0; g < G; ++g) {
    const typename V::F scale = V::load(query.scales + g * V::kLanes);
    V::store(best + g * V::kLanes, V::mul(V::load(best + g * V::kLanes), scale));
  }
}

// As `level_dots`: the query's first lane alone.
template <class V>
void lane_level_dots(const uint8_t* const* packed, size_t count, const uint8_t* end,
                     const ScanTables& tables, const QueryBlock& query, float* dots) {
  const typename V::Windows levels = load_levels<V>(tables.levels);
  const size_t dim = tables.centroids.dim;
  const size_t bytes = dim * tables.bits / 8;
  uint8_t* const spare = tables.tile + kTileRows * tile_stride(dim);
  for (size_t i = 0; i < count; ++i) {
    unpack_windows<V>(packed_token(packed[i], end, bytes, spare), tables.bits, dim, levels,
                      tables.tile);
    int64_t unused, dot;
    V::lane_dots(tables.tile, tables.tile, query.both, dim, unused, dot);
    dots[i] = both_planes(dot);
  }
}

}  // namespace
}  // namespace tartan
