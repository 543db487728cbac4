// The best centroids of every lane.
#pragma once

#include "leaf_dots.hpp"

namespace tartan {
namespace {

// Puts a score of every lane into its place in `best`, [depth][lanes], largest first.
template <class V, int G>
TARTAN_INLINE void insert_best(typename V::F score, int g, const ProbeLanes& lanes) {
  for (size_t i = 0; i < lanes.depth; ++i) {
    float* const place = lanes.best + i * kRowLanes<V, G> + g * V::kLanes;
    const typename V::F held = V::load(place);
    V::store(place, V::max(held, score));
    score = V::min(held, score);
  }
}

// Offers one centroid to the lanes of vector g that `above` names.
template <class V>
inline void offer_lanes(typename V::F scores, uint32_t above, uint32_t centroid, int g,
                        const ProbeLanes& lanes) {
  alignas(64) float values[V::kLanes];
  V::store(values, scores);
  for (; above != 0; above &= above - 1) {
    const int in_vector = __builtin_ctz(above);
    const size_t lane = static_cast<size_t>(g * V::kLanes + in_vector);
    lanes.offers[lane * lanes.capacity + lanes.counts[lane]] = {values[in_vector], centroid};
    if (++lanes.counts[lane] == lanes.capacity) lanes.full(lanes.selector, lanes.first_lane + lane);
  }
}

template <class V, int G>
TARTAN_INLINE const float* threshold_of(int g, const ProbeLanes& lanes) {
  return lanes.best + (lanes.depth - 1) * kRowLanes<V, G> + g * V::kLanes;
}

template <class V, int G>
TARTAN_INLINE bool any_above(typename V::F scores, int g, const ProbeLanes& lanes) {
  return V::greater(scores, V::load(threshold_of<V, G>(g, lanes))) != 0;
}

// Offers what exceeds the thresholds of vector g among `used` scored centroids from `first` on,
// then raises the thresholds if they rise. score(r) gives the scores of one row, `largest` is the
// largest of each lane. The first rows raise the thresholds one by one; later ones by the largest
// of each tile, which is as safe (the scores are of different centroids), nearly as tight, and
// cheaper.
template <class V, int G, class Score>
__attribute__((noinline)) void offer_rows(const Score& score, typename V::F largest, uint32_t first,
                                          int used, int g, const ProbeLanes& lanes) {
  const float* const threshold = threshold_of<V, G>(g, lanes);
  typename V::F bound = V::load(threshold);
  const bool one_by_one =
      lanes.rise && V::greater(bound, V::splat(-__builtin_inff())) != (1u << V::kLanes) - 1;
  for (int r = 0; r < used; ++r) {
    const typename V::F row = score(r);
    const uint32_t above = V::greater(row, bound);
    if (above == 0) continue;
    if (one_by_one) {
      insert_best<V, G>(row, g, lanes);
      bound = V::load(threshold);
    }
    if (lanes.offers != nullptr) {
      offer_lanes<V>(row, above, first + static_cast<uint32_t>(r), g, lanes);
    }
  }
  if (lanes.rise && !one_by_one) insert_best<V, G>(largest, g, lanes);
}

template <class V, int G>
void probe_vectors(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
                   const ProbeLanes& lanes) {
  constexpr int R = V::template kTile<G>;
  for (uint32_t first = begin; first < end; first += R) {
    uint32_t ids[R];
    for (int r = 0; r < R; ++r) ids[r] = first + r < end ? first + r : end - 1;
    typename V::F scores[R][G], largest[G];
    dot_centroids<V, G, R, Planes::kCoarse>(table, ids, query, scores);
    if (lanes.rows != nullptr) {
      for (int r = 0; r < R; ++r) {
        for (int g = 0; g < G; ++g)
          store_row<V>(scores[r][g], table.scales[ids[r]], lanes.gains + g * V::kLanes,
                       lanes.rows + static_cast<size_t>(ids[r]) * kRowLanes<V, G> + g * V::kLanes);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename V::F scale = V::splat(table.scales[ids[r]]);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const typename V::F both = V::mul(V::load(query.coarse_scales + g * V::kLanes), scale);
        scores[r][g] = V::mul(scores[r][g], both);
        largest[g] = r == 0 ? scores[r][g] : V::max(largest[g], scores[r][g]);
      }
    }
    const int used = end - first < static_cast<uint32_t>(R) ? static_cast<int>(end - first) : R;
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      if (__builtin_expect(any_above<V, G>(largest[g], g, lanes), 0)) {
        alignas(64) float rows[R * V::kLanes];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) V::store(rows + r * V::kLanes, scores[r][g]);
        offer_rows<V, G>([&](int r) { return V::load(rows + r * V::kLanes); }, largest[g], first,
                         used, g, lanes);
      }
    }
  }
}

}  // namespace
}  // namespace tartan
