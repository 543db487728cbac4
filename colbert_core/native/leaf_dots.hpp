// Byte products of stored vectors with the query, and what centroids are kept as.
// V::I and V::F are V::kLanes lanes of int32 and float, 16 or 8. A kernel of G works on the lanes
// of G such vectors, which a block's tokens fill, and leaves alone what else its rows, of whole
// groups of kGroup, have. V::dot adds the products of four neighbouring dimensions, V::dot_two of
// twice as many where V::kTwoQuads is true (there are always eight): V::Quads is the query's side,
// V::Row the stored vector's, broadcast to all lanes. V::query_bias is what the query's side has
// more than its plane, V::kBias is added to stored levels where V::dot wants them unsigned.
// V::kTile<G> is how many stored vectors are worked on at once against G of the query's, as many as
// there are registers for.
#pragma once

#include "leaf.hpp"
#include "unpack.hpp"

// Tiles must be inlined: their vectors live in registers.
#define TARTAN_INLINE inline __attribute__((always_inline))

namespace tartan {
namespace {

// Lanes between two rows of G vectors.
template <class V, int G>
constexpr int kRowLanes = (G * V::kLanes + kGroup - 1) / kGroup * kGroup;

// acc[r][g] += Σ_d row[r][d] · q[d][g]. kLevels: rows are levels (biased by V::kBias), else
// centroids as stored.
template <class V, int G, int R, bool kLevels>
TARTAN_INLINE void add_dots(const uint8_t* const (&rows)[R], const QueryPlane& plane, int count,
                            typename V::I (&acc)[R][G]) {
  const auto* quads = V::template query_side<kLevels>(plane);
  const auto load_quads = [&](int quad, int g) {
    return V::load_quads(quads + (quad * kRowLanes<V, G> + g * V::kLanes) * 4);
  };
  for (int quad = 0; quad < count; ++quad) {
    typename V::Quads q[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) q[g] = load_quads(quad, g);
    if constexpr (V::kTwoQuads) {
      typename V::Quads more[G];
      ++quad;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) more[g] = load_quads(quad, g);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename V::Row row = V::load_row(rows[r] + quad * 4 - 4);
        const typename V::Row next = V::load_row(rows[r] + quad * 4);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g)
          acc[r][g] = V::template dot_two<kLevels>(acc[r][g], q[g], more[g], row, next);
      }
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename V::Row row = V::load_row(rows[r] + quad * 4);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) acc[r][g] = V::template dot<kLevels>(acc[r][g], q[g], row);
      }
    }
  }
}

// The same as floats. `row_sums` are of centroids; levels have none.
template <class V, int G, int R, bool kLevels>
TARTAN_INLINE void plane_dots(const uint8_t* const (&rows)[R], const int32_t (&row_sums)[R],
                              const QueryPlane& plane, int quads, typename V::F (&dots)[R][G]) {
  typename V::I acc[R][G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    const typename V::I correction = V::bias_correction(plane.sums + g * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      acc[r][g] = kLevels ? correction : V::splat_i(-V::query_bias(plane) * row_sums[r]);
    }
  }
  add_dots<V, G, R, kLevels>(rows, plane, quads, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) dots[r][g] = V::to_float(acc[r][g]);
  }
}

// dots[r][g] = Σ_d row[r][d] · (high + low / 256)[d][g], or coarse[d][g].
template <class V, int G, int R, bool kLevels, Planes kPlanes>
TARTAN_INLINE void query_dots(const uint8_t* const (&rows)[R], const int32_t (&row_sums)[R],
                              const QueryBlock& query, typename V::F (&dots)[R][G]) {
  const QueryPlane& plane = kPlanes == Planes::kCoarse ? query.coarse : query.high;
  plane_dots<V, G, R, kLevels>(rows, row_sums, plane, query.quads, dots);
  if constexpr (kPlanes == Planes::kBoth) {
    typename V::F low[R][G];
    plane_dots<V, G, R, kLevels>(rows, row_sums, query.low, query.quads, low);
    const typename V::F part = V::splat(kLowPart);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) dots[r][g] = V::add(dots[r][g], V::mul(low[r][g], part));
    }
  }
}

// Dots of R centroids with G vectors of the query.
template <class V, int G, int R, Planes kPlanes>
TARTAN_INLINE void dot_centroids(const CentroidView& table, const uint32_t (&ids)[R],
                                 const QueryBlock& query, typename V::F (&dots)[R][G]) {
  const uint8_t* rows[R];
  int32_t sums[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    rows[r] = reinterpret_cast<const uint8_t*>(table.codes) + ids[r] * table.dim;
    sums[r] = table.sums[ids[r]];
  }
  query_dots<V, G, R, false, kPlanes>(rows, sums, query, dots);
}

inline void prefetch_row(const CentroidView& table, uint32_t code) {
  for (size_t d = 0; d < table.dim; d += 64) {
    __builtin_prefetch(table.codes + code * table.dim + d);
  }
}

// Calls use(r, g, id, dots) for the dots of every centroid ids[r], or r where there are no ids,
// with each of the query's vectors.
template <class V, int G, Planes kPlanes, class Use>
TARTAN_INLINE void each_centroid(const CentroidView& table, const uint32_t* ids, size_t count,
                                 const QueryBlock& query, const Use& use) {
  constexpr int R = V::template kTile<G>;
  constexpr size_t kAhead = 4 * R;
  for (size_t first = 0; first < count; first += R) {
    uint32_t tile_ids[R];
    for (int r = 0; r < R; ++r) {
      const size_t at = first + r < count ? first + r : count - 1;
      tile_ids[r] = ids == nullptr ? static_cast<uint32_t>(at) : ids[at];
    }
    for (size_t r = first + kAhead; ids != nullptr && r < first + kAhead + R && r < count; ++r) {
      prefetch_row(table, ids[r]);
    }
    typename V::F tile[R][G];
    dot_centroids<V, G, R, kPlanes>(table, tile_ids, query, tile);
    for (int r = 0; r < R && first + r < count; ++r) {
      for (int g = 0; g < G; ++g) use(first + r, g, tile_ids[r], tile[r][g]);
    }
  }
}

template <class V, int G>
void centroid_dots_vectors(const CentroidView& table, const uint32_t* ids, size_t count,
                           const QueryBlock& query, float* dots) {
  each_centroid<V, G, Planes::kBoth>(table, ids, count, query,
                                     [&](size_t r, int g, uint32_t, typename V::F values) {
                                       V::store(dots + r * kRowLanes<V, G> + g * V::kLanes, values);
                                     });
}

// The int16 scores of one centroid.
template <class V>
TARTAN_INLINE void store_row(typename V::F dots, float c_scale, const float* gains, int16_t* row) {
  V::store_i16(row, V::mul(dots, V::mul(V::load(gains), V::splat(c_scale))));
}

template <class V, int G>
void centroid_rows_vectors(const CentroidView& table, const uint32_t* ids, size_t count,
                           const QueryBlock& query, const float* gains, int16_t* rows) {
  each_centroid<V, G, Planes::kCoarse>(
      table, ids, count, query, [&](size_t r, int g, uint32_t id, typename V::F values) {
        store_row<V>(values, table.scales[id], gains + g * V::kLanes,
                     rows + r * kRowLanes<V, G> + g * V::kLanes);
      });
}

typedef int16_t Row __attribute__((vector_size(2 * kGroup), aligned(2)));

// Rows lie far apart: several are under way at once.
template <int G>
inline void largest_of_rows(const int16_t* rows, const uint32_t* ids, size_t count, int16_t* best) {
  constexpr size_t kAhead = 16;
  const auto* const table = reinterpret_cast<const Row*>(rows);
  Row even[G], odd[G];
  for (int g = 0; g < G; ++g) even[g] = odd[g] = table[static_cast<size_t>(ids[0]) * G + g];
  size_t t = 1;
  for (; t + 1 < count; t += 2) {
    if (t + 1 + kAhead < count) {
      __builtin_prefetch(table + static_cast<size_t>(ids[t + kAhead]) * G);
      __builtin_prefetch(table + static_cast<size_t>(ids[t + 1 + kAhead]) * G);
    }
    const Row* const first = table + static_cast<size_t>(ids[t]) * G;
    const Row* const second = table + static_cast<size_t>(ids[t + 1]) * G;
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      even[g] = even[g] > first[g] ? even[g] : first[g];
      odd[g] = odd[g] > second[g] ? odd[g] : second[g];
    }
  }
  const Row* const last = table + static_cast<size_t>(ids[count - 1]) * G;
  for (int g = 0; g < G; ++g) {
    even[g] = even[g] > odd[g] ? even[g] : odd[g];
    even[g] = even[g] > last[g] ? even[g] : last[g];
    __builtin_memcpy(best + g * kGroup, &even[g], sizeof(Row));
  }
}

inline void largest_row(const int16_t* rows, const uint32_t* ids, size_t count, int lanes,
                        int16_t* best) {
  (lanes == kGroup ? largest_of_rows<1> : largest_of_rows<2>)(rows, ids, count, best);
}

}  // namespace
}  // namespace tartan
