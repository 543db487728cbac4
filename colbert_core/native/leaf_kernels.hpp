// The leaf kernels, written once over a vector class V that a leaf_*.cpp file defines.
//
// V::I and V::F are 16 lanes of int32 and float. V::dot adds the products of four neighbouring
// dimensions: V::Quads is the query's side, V::Row the stored vector's, broadcast to all lanes.
// V::kBias is added to stored levels where V::dot wants them unsigned. V::kTile<G> is how many
// stored vectors are worked on at once against G groups, as many as there are registers for.
#pragma once

#include "leaf.hpp"
#include "unpack.hpp"

// Tiles must be inlined: their vectors live in registers.
#define TARTAN_INLINE inline __attribute__((always_inline))

namespace tartan {
namespace {

// acc[r][g] += Σ_d row[r][d] · q[d][g]. kLevels: rows are levels (biased by V::kBias), else
// centroids as stored.
template <class V, int G, int R, bool kLevels>
TARTAN_INLINE void add_dots(const uint8_t* const (&rows)[R], const QueryPlane& plane, int count,
                            typename V::I (&acc)[R][G]) {
  const auto* quads = V::template query_side<kLevels>(plane);
  for (int quad = 0; quad < count; ++quad) {
    typename V::Quads q[G];
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) q[g] = V::load_quads(quads + (quad * G + g) * kGroup * 4);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename V::Row row = V::load_row(rows[r] + quad * 4);
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) acc[r][g] = V::template dot<kLevels>(acc[r][g], q[g], row);
    }
  }
}

// The same as floats. `row_sums` are of centroids; levels have none.
template <class V, int G, int R, bool kLevels>
TARTAN_INLINE void plane_dots(const uint8_t* const (&rows)[R], const int32_t (&row_sums)[R],
                              const QueryPlane& plane, int quads, typename V::F (&dots)[R][G]) {
  typename V::I acc[R][G];
#pragma GCC unroll 2
  for (int g = 0; g < G; ++g) {
    const typename V::I correction = V::bias_correction(plane.sums + g * kGroup);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      acc[r][g] = kLevels ? correction : V::splat_i(-V::kBias * row_sums[r]);
    }
  }
  add_dots<V, G, R, kLevels>(rows, plane, quads, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) dots[r][g] = V::to_float(acc[r][g]);
  }
}

// dots[r][g] = Σ_d row[r][d] · (high + low / 254)[d][g], or of the high plane alone.
template <class V, int G, int R, bool kLevels, Planes kPlanes>
TARTAN_INLINE void query_dots(const uint8_t* const (&rows)[R], const int32_t (&row_sums)[R],
                              const QueryBlock& query, typename V::F (&dots)[R][G]) {
  plane_dots<V, G, R, kLevels>(rows, row_sums, query.high, query.quads, dots);
  if constexpr (kPlanes == Planes::kBoth) {
    typename V::F low[R][G];
    plane_dots<V, G, R, kLevels>(rows, row_sums, query.low, query.quads, low);
    const typename V::F part = V::splat(kLowPart);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) dots[r][g] = V::add(dots[r][g], V::mul(low[r][g], part));
    }
  }
}

// Dots of R centroids with G groups.
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
// with every group.
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
void centroid_dots_groups(const CentroidView& table, const uint32_t* ids, size_t count,
                          const QueryBlock& query, float* dots) {
  each_centroid<V, G, Planes::kBoth>(table, ids, count, query,
                                     [&](size_t r, int g, uint32_t, typename V::F values) {
                                       V::store(dots + (r * G + g) * kGroup, values);
                                     });
}

template <class V, int G>
void centroid_rows_groups(const CentroidView& table, const uint32_t* ids, size_t count,
                          const QueryBlock& query, const float* gains, int16_t* rows) {
  each_centroid<V, G, Planes::kHigh>(
      table, ids, count, query, [&](size_t r, int g, uint32_t id, typename V::F values) {
        const typename V::F scale = V::splat(table.scales[id]);
        const typename V::F both = V::mul(V::load(gains + g * kGroup), scale);
        V::store_i16(rows + (r * G + g) * kGroup, V::mul(values, both));
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

// Puts a score of every lane into its place in `best`, [depth][lanes], largest first.
template <class V, int G>
TARTAN_INLINE void insert_best(typename V::F score, int group, const ProbeLanes& lanes) {
  for (size_t i = 0; i < lanes.depth; ++i) {
    float* const place = lanes.best + (i * G + group) * kGroup;
    const typename V::F held = V::load(place);
    V::store(place, V::max(held, score));
    score = V::min(held, score);
  }
}

// Offers one centroid to the lanes of a group that `above` names.
template <class V>
inline void offer_lanes(typename V::F scores, uint32_t above, uint32_t centroid, int group,
                        const ProbeLanes& lanes) {
  alignas(64) float values[kGroup];
  V::store(values, scores);
  for (; above != 0; above &= above - 1) {
    const int in_group = __builtin_ctz(above);
    const size_t lane = static_cast<size_t>(group * kGroup + in_group);
    lanes.offers[lane * lanes.capacity + lanes.counts[lane]] = {values[in_group], centroid};
    if (++lanes.counts[lane] == lanes.capacity) lanes.full(lanes.selector, lanes.first_lane + lane);
  }
}

template <class V, int G>
TARTAN_INLINE bool any_above(typename V::F scores, int group, const ProbeLanes& lanes) {
  const float* const threshold = lanes.best + ((lanes.depth - 1) * G + group) * kGroup;
  return V::greater(scores, V::load(threshold)) != 0;
}

// Offers what exceeds the thresholds of a group among `used` scored centroids from `first` on, then
// raises the thresholds. score(r) gives the scores of one row, `largest` is the largest of each
// lane. The first rows raise the thresholds one by one; later ones by the largest of each tile,
// which is as safe (the scores are of different centroids), nearly as tight, and cheaper.
template <class V, int G, class Score>
__attribute__((noinline)) void offer_rows(const Score& score, typename V::F largest, uint32_t first,
                                          int used, int group, const ProbeLanes& lanes) {
  const float* const threshold = lanes.best + ((lanes.depth - 1) * G + group) * kGroup;
  typename V::F bound = V::load(threshold);
  const bool one_by_one = V::greater(bound, V::splat(-__builtin_inff())) != (1u << kGroup) - 1;
  for (int r = 0; r < used; ++r) {
    const typename V::F row = score(r);
    const uint32_t above = V::greater(row, bound);
    if (above == 0) continue;
    if (one_by_one) {
      insert_best<V, G>(row, group, lanes);
      bound = V::load(threshold);
    }
    offer_lanes<V>(row, above, first + static_cast<uint32_t>(r), group, lanes);
  }
  if (!one_by_one) insert_best<V, G>(largest, group, lanes);
}

// One group's int16 scores of one centroid.
template <class V, int G>
TARTAN_INLINE void store_row(const CentroidView& table, uint32_t id, int group, typename V::F dots,
                             const ProbeLanes& lanes) {
  const typename V::F scale = V::splat(table.scales[id]);
  const typename V::F both = V::mul(V::load(lanes.gains + group * kGroup), scale);
  V::store_i16(lanes.rows + (static_cast<size_t>(id) * G + group) * kGroup, V::mul(dots, both));
}

template <class V, int G>
void probe_groups(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
                  const ProbeLanes& lanes) {
  constexpr int R = V::template kTile<G>;
  for (uint32_t first = begin; first < end; first += R) {
    uint32_t ids[R];
    for (int r = 0; r < R; ++r) ids[r] = first + r < end ? first + r : end - 1;
    typename V::F scores[R][G], largest[G];
    dot_centroids<V, G, R, Planes::kHigh>(table, ids, query, scores);
    if (lanes.rows != nullptr) {
      for (int r = 0; r < R; ++r) {
        for (int g = 0; g < G; ++g) store_row<V, G>(table, ids[r], g, scores[r][g], lanes);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename V::F scale = V::splat(table.scales[ids[r]]);
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        const typename V::F both = V::mul(V::load(query.scales + g * kGroup), scale);
        scores[r][g] = V::mul(scores[r][g], both);
        largest[g] = r == 0 ? scores[r][g] : V::max(largest[g], scores[r][g]);
      }
    }
    const int used = end - first < static_cast<uint32_t>(R) ? static_cast<int>(end - first) : R;
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      if (__builtin_expect(any_above<V, G>(largest[g], g, lanes), 0)) {
        alignas(64) float rows[R * kGroup];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) V::store(rows + r * kGroup, scores[r][g]);
        offer_rows<V, G>([&](int r) { return V::load(rows + r * kGroup); }, largest[g], first, used,
                         g, lanes);
      }
    }
  }
}

// centroid_weight · dot(centroid) + residual_weight · dot(levels)
template <class V>
TARTAN_INLINE typename V::F token_score(typename V::F centroid, typename V::F residual,
                                        const ScanTokens& tokens, size_t token) {
  return V::add(V::mul(V::splat(tokens.centroid_weights[token]), centroid),
                V::mul(V::splat(tokens.residual_weights[token]), residual));
}

// One tile of R tokens from `first` on (the last one repeated where the passage ends) into `best`.
template <class V, int G, int R>
TARTAN_INLINE void scan_tile(const ScanTokens& tokens, size_t first, const ScanTables& tables,
                             typename V::Table levels, const QueryBlock& query,
                             typename V::F (&best)[G]) {
  const size_t dim = tables.centroids.dim;
  const size_t stride = tile_stride(dim);
  const size_t bytes = dim * tables.bits / 8;
  uint8_t* const spare = tables.tile + kTileRows * stride;
  const uint8_t* rows[R];
  const float* centroid_row[R];
  size_t at[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    at[r] = first + r < tokens.count ? first + r : tokens.count - 1;
    centroid_row[r] = tables.kept + static_cast<size_t>(tokens.rows[at[r]]) * G * kGroup;
    for (int g = 0; g < G; ++g) __builtin_prefetch(centroid_row[r] + g * kGroup);
    const uint8_t* packed =
        packed_token(tokens.residuals + at[r] * bytes, tokens.residuals_end, bytes, spare);
    unpack<V>(packed, tables.bits, dim, levels, tables.tile + r * stride);
    rows[r] = tables.tile + r * stride;
  }
  typename V::F dots[R][G];
  const int32_t no_sums[R] = {};
  query_dots<V, G, R, true, Planes::kBoth>(rows, no_sums, query, dots);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      const typename V::F centroid = V::load(centroid_row[r] + g * kGroup);
      best[g] = V::max(best[g], token_score<V>(centroid, dots[r][g], tokens, at[r]));
    }
  }
}

// The 16 levels as V::dot wants them.
template <class V>
inline typename V::Table load_levels(const int8_t* levels) {
  alignas(16) uint8_t biased[16];
  for (int i = 0; i < 16; ++i) biased[i] = static_cast<uint8_t>(levels[i] + V::kBias);
  return V::load_table(biased);
}

template <class V, int G>
void scan_groups(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
                 float* best) {
  constexpr int R = V::template kTile<G>;
  const typename V::Table levels = load_levels<V>(tables.levels);
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
    V::store(best + g * kGroup, V::mul(running[g], V::load(query.scales + g * kGroup)));
  }
}

// 1 / ‖vector‖ with the squares summed in 16 strided parts, then in halves; 0 for a zero vector.
template <class V>
inline float inverse_norm(const float* vector, size_t padded_dim) {
  typename V::F sums = V::splat(0.0f);
  for (size_t d = 0; d < padded_dim; d += kGroup) {
    const typename V::F values = V::load(vector + d);
    sums = V::add(sums, V::mul(values, values));
  }
  alignas(64) float parts[kGroup];
  V::store(parts, sums);
  for (int half = kGroup / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] = parts[i] + parts[i + half];
  }
  const float norm = __builtin_sqrtf(parts[0]);
  return norm > 0 ? 1.0f / norm : 0.0f;
}

// alpha·centroid + beta·levels[index] for one token; `scaled` is beta·levels.
template <class V>
inline void combine(const DecodeTables& tables, uint32_t code, float alpha, const float* scaled,
                    const uint8_t* indices, float* out) {
  const size_t dim = tables.dim;
  const size_t whole = dim / kGroup * kGroup;
  const int8_t* const int8 = tables.centroids.codes + code * dim;
  const float* const exact =
      tables.centroids_f32 == nullptr ? nullptr : tables.centroids_f32 + code * dim;
  const float scale = tables.centroids.scales[code];
  const typename V::F16 table = V::load_f16(scaled);
  for (size_t d = 0; d < whole; d += kGroup) {
    const typename V::F centroid =
        exact ? V::load(exact + d) : V::mul(V::widen(int8 + d), V::splat(scale));
    V::store(out + d, V::add(V::mul(V::splat(alpha), centroid), V::lookup_f(table, indices + d)));
  }
  for (size_t d = whole; d < dim; ++d) {
    const float centroid = exact ? exact[d] : static_cast<float>(int8[d]) * scale;
    out[d] = alpha * centroid + scaled[indices[d]];
  }
  for (size_t d = dim; d < vector_stride(dim); ++d) out[d] = 0.0f;
}

template <class V>
void decode_tokens(const DecodeTokens& tokens, const DecodeTables& tables, float* vectors) {
  alignas(16) uint8_t identity[16];
  for (int i = 0; i < 16; ++i) identity[i] = static_cast<uint8_t>(i & ((1 << tables.bits) - 1));
  const typename V::Table table = V::load_table(identity);
  const size_t bytes = tables.dim * tables.bits / 8;
  const size_t stride = vector_stride(tables.dim);
  uint8_t* const spare = tables.tile + kTileRows * tile_stride(tables.dim);
  for (size_t t = 0; t < tokens.count; ++t) {
    const uint8_t* packed =
        packed_token(tokens.residuals + t * bytes, tokens.residuals_end, bytes, spare);
    unpack<V>(packed, tables.bits, tables.dim, table, tables.tile);
    const float beta = tables.beta[tokens.scales[t]];
    alignas(64) float scaled[16];
    for (int i = 0; i < 16; ++i) scaled[i] = beta * tables.levels[i];
    float* const out = vectors + t * stride;
    combine<V>(tables, tokens.codes[t], tables.alpha[tokens.scales[t]], scaled, tables.tile, out);
    if (!tables.normalize) continue;
    const typename V::F inverse = V::splat(inverse_norm<V>(out, stride));
    for (size_t d = 0; d < stride; d += kGroup) {
      V::store(out + d, V::mul(V::load(out + d), inverse));
    }
  }
}

template <class V, int G>
void dots_groups(const float* vectors, size_t count, size_t dim, const QueryBlock& query,
                 float* dots) {
  constexpr int R = V::template kTile<G>;
  const size_t stride = vector_stride(dim);
  for (size_t first = 0; first < count; first += R) {
    const float* rows[R];
    typename V::F acc[R][G];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      rows[r] = vectors + (first + r < count ? first + r : count - 1) * stride;
      for (int g = 0; g < G; ++g) acc[r][g] = V::splat(0.0f);
    }
    for (size_t d = 0; d < dim; ++d) {
      typename V::F q[G];
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) q[g] = V::load(query.f32 + (d * G + g) * kGroup);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename V::F value = V::splat(rows[r][d]);
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) acc[r][g] = V::add(acc[r][g], V::mul(value, q[g]));
      }
    }
    for (int r = 0; r < R && first + r < count; ++r) {
      for (int g = 0; g < G; ++g) V::store(dots + ((first + r) * G + g) * kGroup, acc[r][g]);
    }
  }
}

template <class V>
void centroid_dots(const CentroidView& table, const uint32_t* ids, size_t count,
                   const QueryBlock& query, float* dots) {
  if (count == 0) return;
  (query.groups == 1 ? centroid_dots_groups<V, 1> : centroid_dots_groups<V, 2>)(table, ids, count,
                                                                                query, dots);
}

template <class V>
void centroid_rows(const CentroidView& table, const uint32_t* ids, size_t count,
                   const QueryBlock& query, const float* gains, int16_t* rows) {
  if (count == 0) return;
  (query.groups == 1 ? centroid_rows_groups<V, 1> : centroid_rows_groups<V, 2>)(table, ids, count,
                                                                                query, gains, rows);
}

template <class V>
void probe(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
           const ProbeLanes& lanes) {
  (query.groups == 1 ? probe_groups<V, 1> : probe_groups<V, 2>)(table, begin, end, query, lanes);
}

template <class V>
void scan(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
          float* best) {
  (query.groups == 1 ? scan_groups<V, 1> : scan_groups<V, 2>)(tokens, tables, query, best);
}

template <class V>
void dots(const float* vectors, size_t count, size_t dim, const QueryBlock& query, float* out) {
  (query.groups == 1 ? dots_groups<V, 1> : dots_groups<V, 2>)(vectors, count, dim, query, out);
}

template <class V>
constexpr Leaf make_leaf(const char* name) {
  return {name,        true,     nullptr, nullptr,          centroid_dots<V>, centroid_rows<V>,
          largest_row, probe<V>, scan<V>, decode_tokens<V>, dots<V>};
}

}  // namespace
}  // namespace tartan
