// Vectors into the codec's space. A matrix product of its own, because of a BLAS its threads, the
// processor and the number of rows would decide the last bit, and with it now and then a byte of an
// index; and because it would divide a product as small as a query's among threads, which spin for
// milliseconds afterwards where shard servers want the cores.
#pragma once

#include "leaf_dots.hpp"

namespace tartan {
namespace {

template <class V, int R>
TARTAN_INLINE void rotate_rows(const float* vectors, const float* rotation, size_t dim,
                               float* rotated) {
  const size_t whole = dim / kGroup * kGroup;
  for (size_t first = 0; first < whole; first += kGroup) {
    typename V::F sums[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sums[r] = V::splat(0.0f);
    for (size_t k = 0; k < dim; ++k) {
      const typename V::F row = V::load(rotation + k * dim + first);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        sums[r] = V::add(sums[r], V::mul(V::splat(vectors[r * dim + k]), row));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) V::store(rotated + r * dim + first, sums[r]);
  }
  for (size_t d = whole; d < dim; ++d) {
    for (int r = 0; r < R; ++r) {
      float sum = 0;
      for (size_t k = 0; k < dim; ++k) sum += vectors[r * dim + k] * rotation[k * dim + d];
      rotated[r * dim + d] = sum;
    }
  }
}

template <class V>
void rotate(const float* vectors, size_t tokens, const float* rotation, size_t dim,
            float* rotated) {
  constexpr int R = 4;  // whose sums stay in registers
  size_t l = 0;
  for (; l + R <= tokens; l += R) {
    rotate_rows<V, R>(vectors + l * dim, rotation, dim, rotated + l * dim);
  }
  for (; l < tokens; ++l) {
    rotate_rows<V, 1>(vectors + l * dim, rotation, dim, rotated + l * dim);
  }
}

}  // namespace
}  // namespace tartan
