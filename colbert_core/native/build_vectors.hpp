// Float vectors into the codec's space and to bytes: int8 rows for k-means and assignment,
// residuals for the codecs.
#pragma once

#include <span>

#include "build_leaf.hpp"

namespace tartan {

// Float vectors [count][D] times the rotation [D][D], each sum by ascending row of it: the same
// bits for a vector whichever others it comes with.
void rotate(std::span<const float> vectors_TD, std::span<const float> rotation_DD, size_t dim,
            size_t threads, float* rotated);

// Float vectors [count][D] as int8 within ±127, and what each row is multiplied by.
void to_int8(std::span<const float> vectors_TD, size_t dim, size_t threads, int8_t* values,
             float* scales);

constexpr int32_t kMaxWeight = 1 << 24;  // a product with an int8 stays within an int32

// Adds each row, times its weight, to sums[code], [centroids][D]: integers, so that neither the
// order of the rows nor the number of threads matters. Throws std::invalid_argument.
void add_rows(std::span<const int8_t> values_SD, std::span<const int32_t> weights_S,
              std::span<const int32_t> codes_S, size_t dim, size_t centroids, size_t threads,
              int64_t* sums);

// The bits whose levels along the trellis come nearest to the values. Throws std::invalid_argument.
void best_bits(const TrellisValues& trellis, size_t threads);

// Residuals to packed bits and scale bytes. Throws std::invalid_argument for codes that are no
// centroids and for bits other than 1 … 4.
void quantise_tartan(QuantiseTokens tokens, size_t centroids, const TartanTables&, size_t threads);
void quantise_colbertv2(QuantiseTokens tokens, size_t centroids, const ColbertTables&,
                        size_t threads);

}  // namespace tartan
