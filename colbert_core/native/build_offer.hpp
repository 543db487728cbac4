// The nearest of the centroids, for paths whose registers hold 16 tokens side by side.
//
// Included by the sources of single paths only. V has: I, 16 lanes of int32; Quads, a quad of every
// lane; kRows, how many centroids are worked on together; kBias, what the tile's bytes have too
// much.
#pragma once

#include "build_leaf.hpp"

namespace tartan {
namespace {

template <class V>
void offer(const CentroidRows& centroids, const uint32_t* runs, size_t count, const int8_t* tile,
           NearestSoFar& nearest) {
  static_assert(kRun % V::kRows == 0);
  for (size_t half = 0; half < 2; ++half) {
    typename V::I best = V::load(nearest.scores + half * kHalf);
    typename V::I codes = V::load(nearest.codes + half * kHalf);
    const int8_t* const tokens = tile + quad_at(half * kHalf, 0);
    for (size_t i = 0; i < count * (kRun / V::kRows); ++i) {
      const size_t first = runs[i / (kRun / V::kRows)] * kRun + i % (kRun / V::kRows) * V::kRows;
      const int8_t* const rows = centroids.data + first * centroids.stride;
      typename V::I dots[V::kRows];
      for (size_t r = 0; r < V::kRows; ++r) {
        dots[r] = V::splat(-V::kBias * centroids.sums[first + r]);
      }
      for (size_t plane = 0; plane < centroids.dim; plane += kDepth) {
        const int8_t* at = tokens + quad_at(0, plane);
        const size_t end = plane + kDepth < centroids.dim ? plane + kDepth : centroids.dim;
        for (size_t d = plane; d < end; d += 4, at += kHalf * 4) {
          const typename V::Quads quads = V::load_quads(at);
#pragma GCC unroll 16
          for (size_t r = 0; r < V::kRows; ++r) {
            dots[r] = V::dot(dots[r], quads, rows + r * centroids.stride + d);
          }
        }
      }
      typename V::I most = dots[0];
#pragma GCC unroll 16
      for (size_t r = 1; r < V::kRows; ++r) most = V::max(most, dots[r]);
      if (V::none_greater(most, best)) [[likely]] {
        continue;
      }
      for (size_t r = 0; r < V::kRows; ++r) {
        V::keep_greater(best, codes, dots[r], static_cast<int32_t>(first + r));
      }
    }
    V::store(nearest.scores + half * kHalf, best);
    V::store(nearest.codes + half * kHalf, codes);
  }
}

}  // namespace
}  // namespace tartan
