// The matrix unit's tiles: 32 stored vectors times two groups of the query in four accumulators.
//
// A query plane lies in memory as the tiles want it; dimensions beyond the last are zero there, so
// it does not matter what a stored row holds in them.
#pragma once

#include "leaf_avx512.hpp"

namespace tartan {
namespace {

constexpr int kRows = 16;          // of a tile
constexpr int kPair = 2 * kRows;   // stored vectors that are worked on together
constexpr size_t kTileBytes = 64;  // of a tile's row
static_assert(kPair <= static_cast<int>(kTileRows));

// Eight tiles of 16 rows of 64 bytes. In static memory: gcc's _tile_loadconfig reads 64 bytes but
// tells the compiler of 8, so that a local variable would not be written in full.
struct alignas(64) Configuration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const Configuration kConfiguration;

void enter() { _tile_loadconfig(&kConfiguration); }
void leave() { _tile_release(); }

// products[r][g][lane] of 32 rows, `stride` bytes apart and readable to the next multiple of 64
// dimensions, with one plane.
template <int G>
inline void multiply(const uint8_t* rows, size_t stride, const QueryPlane& plane, size_t dim,
                     int32_t* products) {
  _tile_zero(0);
  _tile_zero(2);
  if (G == 2) _tile_zero(1);
  if (G == 2) _tile_zero(3);
  constexpr size_t kLaneBytes = G * kGroup * 4;
  for (size_t d = 0; d < dim; d += kTileBytes) {
    const int8_t* const quads = plane.i8 + d / 4 * kLaneBytes;
    _tile_loadd(4, rows + d, stride);
    _tile_loadd(6, quads, kLaneBytes);
    _tile_dpbssd(0, 4, 6);
    if (G == 2) _tile_loadd(7, quads + kGroup * 4, kLaneBytes);
    if (G == 2) _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, rows + kRows * stride + d, stride);
    _tile_dpbssd(2, 5, 6);
    if (G == 2) _tile_dpbssd(3, 5, 7);
  }
  constexpr size_t kOut = G * kGroup * sizeof(int32_t);
  _tile_stored(0, products, kOut);
  if (G == 2) _tile_stored(1, products + kGroup, kOut);
  _tile_stored(2, products + kRows * G * kGroup, kOut);
  if (G == 2) _tile_stored(3, products + kRows * G * kGroup + kGroup, kOut);
}

// The products of 32 rows with the planes that are used.
template <int G, Planes kPlanes>
struct Products {
  alignas(64) int32_t first[kPair * G * kGroup];  // high or coarse
  alignas(64) int32_t low[kPlanes == Planes::kBoth ? kPair * G * kGroup : 1];

  void compute(const uint8_t* rows, size_t stride, const QueryBlock& query, size_t dim) {
    multiply<G>(rows, stride, kPlanes == Planes::kCoarse ? query.coarse : query.high, dim, first);
    if (kPlanes == Planes::kBoth) multiply<G>(rows, stride, query.low, dim, low);
  }

  __m512 of(int row, int group) const {
    const int at = (row * G + group) * kGroup;
    const __m512 dots = _mm512_cvtepi32_ps(_mm512_load_si512(first + at));
    if (kPlanes == Planes::kCoarse) return dots;
    const __m512 rest = _mm512_cvtepi32_ps(_mm512_load_si512(low + at));
    return _mm512_add_ps(dots, _mm512_mul_ps(rest, _mm512_set1_ps(kLowPart)));
  }
};

inline void copy_row(const int8_t* from, size_t dim, uint8_t* to) {
  size_t d = 0;
  for (; d + 64 <= dim; d += 64) _mm512_storeu_si512(to + d, _mm512_loadu_si512(from + d));
  if (d < dim) __builtin_memcpy(to + d, from + d, dim - d);
}

// Copies the rows of up to 32 centroids, and asks for those that come 32 later.
inline void gather_rows(const CentroidView& table, const uint32_t* ids, int used, size_t left,
                        size_t stride, uint8_t* to) {
  for (int r = 0; r < used; ++r) {
    if (static_cast<size_t>(r) + kPair < left) prefetch_row(table, ids[r + kPair]);
    copy_row(table.codes + ids[r] * table.dim, table.dim, to + r * stride);
  }
}

inline int tile_rows(size_t left) { return static_cast<int>(left < kPair ? left : kPair); }

}  // namespace
}  // namespace tartan
