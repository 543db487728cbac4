// Vectors as int8 rows, and sums of rows: what nearest centroids and k-means work on.
//
// Included by the sources of single paths only; colbert_core/reference/nearest.py defines the bits.
#pragma once

#include <algorithm>
#include <cmath>

#include "build_lanes.hpp"
#include "common.hpp"

namespace tartan {
namespace {

// The largest magnitude of a vector. NaN does not count.
template <size_t kBytes>
inline float peak_of(const float* vector, size_t dim) {
  using F = Floats<kBytes>;
  const auto larger = [](typename F::Part x, typename F::Part y) {
    const typename F::Part magnitude = y < 0 ? -y : y;
    return magnitude > x ? magnitude : x;
  };
  F peaks = F::splat(0);
  size_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) peaks = F::of(peaks, F::load(vector + d), larger);
  float lanes[kLanes];
  peaks.store(lanes);
  float peak = *std::max_element(lanes, lanes + kLanes);
  for (; d < dim; ++d) peak = std::fabs(vector[d]) > peak ? std::fabs(vector[d]) : peak;
  return peak;
}

// Rounds to the nearest integer, halves to even, for magnitudes below 2^22.
inline float rounded(float value) { return (value + 12582912.0f) - 12582912.0f; }

template <size_t kBytes>
void to_int8(const float* vectors, size_t count, size_t dim, int8_t* values, float* scales) {
  for (size_t t = 0; t < count; ++t) {
    const float* const vector = vectors + t * dim;
    int8_t* const row = values + t * dim;
    const float peak = peak_of<kBytes>(vector, dim);
    const bool empty = peak < kSmallestRange;
    const float inverse = empty ? 0.0f : 127.0f / peak;
    for (size_t d = 0; d < dim; ++d) {
      // NaN becomes −127, because it is not greater: a conversion must not be undefined.
      const float value = rounded(vector[d] * inverse);
      const float above = value > -127.0f ? value : -127.0f;
      row[d] = static_cast<int8_t>(above < 127.0f ? above : 127.0f);
    }
    scales[t] = empty ? 0.0f : peak / 127.0f;
  }
}

void add_rows(const int8_t* values, const int32_t* weights, const int32_t* codes, size_t count,
              size_t dim, int32_t begin, int32_t end, int64_t* sums) {
  constexpr size_t kAhead = 8;  // rows whose sums are fetched meanwhile
  constexpr size_t kLine = 64 / sizeof(int64_t);
  for (size_t t = 0; t < count; ++t) {
    if (t + kAhead < count && codes[t + kAhead] >= begin && codes[t + kAhead] < end) {
      const int64_t* const next = sums + static_cast<size_t>(codes[t + kAhead] - begin) * dim;
      for (size_t d = 0; d < dim; d += kLine) __builtin_prefetch(next + d, 1);
    }
    if (codes[t] < begin || codes[t] >= end) continue;
    int64_t* const sum = sums + static_cast<size_t>(codes[t] - begin) * dim;
    const int8_t* const row = values + t * dim;
    const int32_t weight = weights[t];
    for (size_t d = 0; d < dim; ++d) sum[d] += weight * static_cast<int32_t>(row[d]);
  }
}

}  // namespace
}  // namespace tartan
