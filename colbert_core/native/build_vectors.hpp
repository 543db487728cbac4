// Float vectors to bytes: int8 rows for k-means and assignment, residuals for the codecs.
#pragma once

#include <span>

#include "build_leaf.hpp"

namespace tartan {

// Float vectors [count][D] as int8 within ±127, and what each row is multiplied by.
void to_int8(std::span<const float> vectors_TD, size_t dim, size_t threads, int8_t* values,
             float* scales);

// sums[code] of the rows of each code, times their scales, in the order of the rows: the same bits
// on any number of threads. Sums [centroids][D] start at zero. Throws std::invalid_argument.
void sum_rows(std::span<const int8_t> values_SD, std::span<const float> scales_S,
              std::span<const int32_t> codes_S, size_t dim, size_t centroids, size_t threads,
              float* sums);

// The bits whose levels along the trellis come nearest to the values. Throws std::invalid_argument.
void best_bits(const TrellisValues& trellis, size_t threads);

// Residuals to packed bits and scale bytes. Throws std::invalid_argument for codes that are no
// centroids and for bits other than 1 … 4.
void quantise_tartan(QuantiseTokens tokens, size_t centroids, const TartanTables&, size_t threads);
void quantise_colbertv2(QuantiseTokens tokens, size_t centroids, const ColbertTables&,
                        size_t threads);

}  // namespace tartan
