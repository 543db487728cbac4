// Tokens decoded to float32, and their products with the float32 query.
#pragma once

#include "leaf_dots.hpp"

namespace tartan {
namespace {

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

// Entries of a table of 16, by index.
template <class V>
class FewLevels {
 public:
  explicit FewLevels(const float* entries) : table_(V::load_f16(entries)) {}
  typename V::F at(const uint8_t* indices) const { return V::lookup_f(table_, indices); }

 private:
  typename V::F16 table_;
};

// The same of any size.
template <class V>
class ManyLevels {
 public:
  explicit ManyLevels(const float* entries) : entries_(entries) {}
  typename V::F at(const uint8_t* indices) const {
    alignas(64) float found[kGroup];
    for (int i = 0; i < kGroup; ++i) found[i] = entries_[indices[i]];
    return V::load(found);
  }

 private:
  const float* entries_;
};

// alpha·centroid + beta·levels[index] for one token; `scaled` is beta·levels.
template <class V, class Lookup>
inline void combine(const DecodeTables& tables, uint32_t code, float alpha, const float* scaled,
                    const uint8_t* indices, float* out) {
  const size_t dim = tables.dim;
  const size_t whole = dim / kGroup * kGroup;
  const int8_t* const int8 = tables.centroids.codes + code * dim;
  const float* const exact =
      tables.centroids_f32 == nullptr ? nullptr : tables.centroids_f32 + code * dim;
  const float scale = tables.centroids.scales[code];
  const Lookup levels(scaled);
  for (size_t d = 0; d < whole; d += kGroup) {
    const typename V::F centroid =
        exact ? V::load(exact + d) : V::mul(V::widen(int8 + d), V::splat(scale));
    V::store(out + d, V::add(V::mul(V::splat(alpha), centroid), levels.at(indices + d)));
  }
  for (size_t d = whole; d < dim; ++d) {
    const float centroid = exact ? exact[d] : static_cast<float>(int8[d]) * scale;
    out[d] = alpha * centroid + scaled[indices[d]];
  }
  for (size_t d = dim; d < vector_stride(dim); ++d) out[d] = 0.0f;
}

// One token's windows, or the indices of its planes, into the tile.
template <class V>
inline void unpack_indices(const uint8_t* packed, const DecodeTables& tables) {
  alignas(64) uint8_t identity[kTrellisLevels];
  for (int i = 0; i < kTrellisLevels; ++i) identity[i] = static_cast<uint8_t>(i);
  if (tables.trellis) {
    unpack_windows<V>(packed, tables.bits, tables.dim, V::load_windows(identity), tables.tile);
  } else {
    unpack_planes<V>(packed, tables.bits, tables.dim, V::load_table(identity), tables.tile);
  }
}

template <class V>
void decode_tokens(const DecodeTokens& tokens, const DecodeTables& tables, float* vectors) {
  const size_t bytes = tables.dim * tables.bits / 8;
  const size_t stride = vector_stride(tables.dim);
  uint8_t* const spare = tables.tile + kTileRows * tile_stride(tables.dim);
  const auto combined = tables.trellis ? combine<V, ManyLevels<V>> : combine<V, FewLevels<V>>;
  for (size_t t = 0; t < tokens.count; ++t) {
    const uint8_t* packed =
        packed_token(tokens.residuals + t * bytes, tokens.residuals_end, bytes, spare);
    unpack_indices<V>(packed, tables);
    const float beta = tables.beta[tokens.scales[t]];
    alignas(64) float scaled[kTrellisLevels];
    for (int i = 0; i < kTrellisLevels; ++i) scaled[i] = beta * tables.levels[i];
    float* const out = vectors + t * stride;
    combined(tables, tokens.codes[t], tables.alpha[tokens.scales[t]], scaled, tables.tile, out);
    if (!tables.normalize) continue;
    const typename V::F inverse = V::splat(inverse_norm<V>(out, stride));
    for (size_t d = 0; d < stride; d += kGroup) {
      V::store(out + d, V::mul(V::load(out + d), inverse));
    }
  }
}

template <class V, int G>
void dots_vectors(const float* vectors, size_t count, size_t dim, const QueryBlock& query,
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
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) q[g] = V::load(query.f32 + d * kRowLanes<V, G> + g * V::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename V::F value = V::splat(rows[r][d]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) acc[r][g] = V::add(acc[r][g], V::mul(value, q[g]));
      }
    }
    for (int r = 0; r < R && first + r < count; ++r) {
      for (int g = 0; g < G; ++g) {
        V::store(dots + (first + r) * kRowLanes<V, G> + g * V::kLanes, acc[r][g]);
      }
    }
  }
}

}  // namespace
}  // namespace tartan
