// Building on the matrix unit: 32 centroids meet the 32 tokens of a tile in four accumulators, 64
// dimensions at a time. While one run is multiplied, the products of the run before are looked
// through, so that hardly more than the multiplication is waited for.
#include "build_avx512.hpp"
#include "leaf.hpp"

namespace tartan {
namespace {

constexpr size_t kTileRows16 = 16;                // of a tile register
constexpr size_t kQuarter = kTileRows16 * kHalf;  // products that a tile register holds
constexpr size_t kProducts = kRun * kTileTokens;  // [2 row halves][2 token halves][16][16]
constexpr size_t kRegisterBytes = kTileRows16 * kDepth;

void multiply(const int8_t* rows, size_t stride, const int8_t* tile) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t d = 0; d < stride; d += kDepth) {
    _tile_loadd(4, rows + d, stride);
    _tile_loadd(6, tile + d / kDepth * 2 * kRegisterBytes, kDepth);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, tile + (d / kDepth * 2 + 1) * kRegisterBytes, kDepth);
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, rows + kTileRows16 * stride + d, stride);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
}

void store(int32_t* products) {
  _tile_stored(0, products, kDepth);
  _tile_stored(1, products + kQuarter, kDepth);
  _tile_stored(2, products + 2 * kQuarter, kDepth);
  _tile_stored(3, products + 3 * kQuarter, kDepth);
}

// The products of rows 0 … 15 and 16 … 31 with 16 tokens.
inline __m512i most_of(const int32_t* products) {
  __m512i low = _mm512_load_si512(products);
  __m512i high = _mm512_load_si512(products + 2 * kQuarter);
#pragma GCC unroll 16
  for (size_t r = 1; r < kTileRows16; ++r) {
    low = _mm512_max_epi32(low, _mm512_load_si512(products + r * kHalf));
    high = _mm512_max_epi32(high, _mm512_load_si512(products + 2 * kQuarter + r * kHalf));
  }
  return _mm512_max_epi32(low, high);
}

// What the tokens of a tile have found.
struct Found {
  BuildLanes best[2], codes[2];
};

inline void look_through(const int32_t* products, int32_t first, Found& found) {
  const BuildLanes most0 = BuildLanes(most_of(products));
  const BuildLanes most1 = BuildLanes(most_of(products + kQuarter));
  if (BuildAvx512::none_greater(most0, found.best[0]) &
      BuildAvx512::none_greater(most1, found.best[1])) [[likely]] {
    return;
  }
  for (size_t r = 0; r < kRun; ++r) {
    const int32_t* const dots = products + r / kTileRows16 * 2 * kQuarter + r % kTileRows16 * kHalf;
    const int32_t code = first + static_cast<int32_t>(r);
    BuildAvx512::keep_greater(found.best[0], found.codes[0], BuildAvx512::load(dots), code);
    BuildAvx512::keep_greater(found.best[1], found.codes[1], BuildAvx512::load(dots + kQuarter),
                              code);
  }
}

void offer_amx(const CentroidRows& centroids, const uint32_t* runs, size_t count,
               const int8_t* tile, NearestSoFar& nearest) {
  alignas(64) int32_t products[2][kProducts];
  Found found;
  for (size_t half = 0; half < 2; ++half) {
    found.best[half] = BuildAvx512::load(nearest.scores + half * kHalf);
    found.codes[half] = BuildAvx512::load(nearest.codes + half * kHalf);
  }
  for (size_t i = 0; i <= count; ++i) {
    if (i < count) {
      multiply(centroids.data + runs[i] * kRun * centroids.stride, centroids.stride, tile);
    }
    if (i > 0) {
      look_through(products[(i - 1) % 2], static_cast<int32_t>(runs[i - 1] * kRun), found);
    }
    if (i < count) store(products[i % 2]);
  }
  for (size_t half = 0; half < 2; ++half) {
    BuildAvx512::store(nearest.scores + half * kHalf, found.best[half]);
    BuildAvx512::store(nearest.codes + half * kHalf, found.codes[half]);
  }
}

}  // namespace

const BuildLeaf& build_leaf_amx() {
  static const BuildLeaf leaf = [] {
    BuildLeaf amx = build_leaf_avx512();
    amx.name = "amx";
    amx.enter = leaf_amx().enter;
    amx.leave = leaf_amx().leave;
    amx.flip = 0;
    amx.offer = offer_amx;
    return amx;
  }();
  return leaf;
}

}  // namespace tartan
