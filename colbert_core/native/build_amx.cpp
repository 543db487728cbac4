// Building on the matrix unit: 16 centroids at a time meet the 32 tokens of a tile, 64 dimensions
// at once. While some are multiplied, the products of those before are looked through, so that
// hardly more than the multiplication is waited for.
#include "build_avx512.hpp"
#include "leaf.hpp"

namespace tartan {
namespace {

constexpr size_t kRows = 16;                       // of a tile register
constexpr size_t kBytes = kRows * kDepth;          // of a tile register
constexpr size_t kProducts = kRows * kTileTokens;  // int32 [2 halves of the tile][16 rows][16]

// What the tokens of a tile have found.
struct Found {
  BuildLanes best[2], codes[2];
};

// Up to 128 dimensions: the tile stays in registers 4 … 7, of which a plane takes two.
struct Resident {
  static void load(const int8_t* tile, size_t stride) {
    _tile_loadd(4, tile, kDepth);
    _tile_loadd(5, tile + kBytes, kDepth);
    if (stride == kDepth) return;
    _tile_loadd(6, tile + 2 * kBytes, kDepth);
    _tile_loadd(7, tile + 3 * kBytes, kDepth);
  }
  static void multiply(const int8_t* rows, size_t stride, const int8_t*) {
    _tile_loadd(2, rows, stride);
    _tile_dpbssd(0, 2, 4);
    _tile_dpbssd(1, 2, 5);
    if (stride == kDepth) return;
    _tile_loadd(3, rows + kDepth, stride);
    _tile_dpbssd(0, 3, 6);
    _tile_dpbssd(1, 3, 7);
  }
};

// More dimensions: the planes of the tile are loaded again for every 16 centroids.
struct Streamed {
  static void load(const int8_t*, size_t) {}
  static void multiply(const int8_t* rows, size_t stride, const int8_t* tile) {
    for (size_t d = 0; d < stride; d += kDepth) {
      const int8_t* const plane = tile + d / kDepth * 2 * kBytes;
      _tile_loadd(2, rows + d, stride);
      _tile_loadd(4, plane, kDepth);
      _tile_dpbssd(0, 2, 4);
      _tile_loadd(5, plane + kBytes, kDepth);
      _tile_dpbssd(1, 2, 5);
    }
  }
};

inline BuildLanes most_of(const int32_t* products) {
  BuildLanes even = BuildAvx512::load(products);
  BuildLanes odd = BuildAvx512::load(products + kHalf);
#pragma GCC unroll 16
  for (size_t r = 2; r < kRows; r += 2) {
    even = BuildAvx512::max(even, BuildAvx512::load(products + r * kHalf));
    odd = BuildAvx512::max(odd, BuildAvx512::load(products + (r + 1) * kHalf));
  }
  return BuildAvx512::max(even, odd);
}

inline void look_through(const int32_t* products, int32_t first, Found& found) {
  const int32_t* const second = products + kRows * kHalf;
  if (BuildAvx512::none_greater(most_of(products), found.best[0]) &
      BuildAvx512::none_greater(most_of(second), found.best[1])) [[likely]] {
    return;
  }
  for (size_t r = 0; r < kRows; ++r) {
    const int32_t code = first + static_cast<int32_t>(r);
    BuildAvx512::keep_greater(found.best[0], found.codes[0],
                              BuildAvx512::load(products + r * kHalf), code);
    BuildAvx512::keep_greater(found.best[1], found.codes[1], BuildAvx512::load(second + r * kHalf),
                              code);
  }
}

template <class Tile>
void offer_amx(const CentroidRows& centroids, const uint32_t* runs, size_t count,
               const int8_t* tile, NearestSoFar& nearest) {
  static_assert(kRun == 2 * kRows);
  alignas(64) int32_t products[2][kProducts];
  Found found;
  for (size_t half = 0; half < 2; ++half) {
    found.best[half] = BuildAvx512::load(nearest.scores + half * kHalf);
    found.codes[half] = BuildAvx512::load(nearest.codes + half * kHalf);
  }
  const size_t stride = centroids.stride;
  Tile::load(tile, stride);
  size_t before = 0;
  for (size_t i = 0; i < 2 * count; ++i) {
    const size_t first = runs[i / 2] * kRun + i % 2 * kRows;
    _tile_zero(0);
    _tile_zero(1);
    Tile::multiply(centroids.data + first * stride, stride, tile);
    if (i > 0) look_through(products[(i + 1) % 2], static_cast<int32_t>(before), found);
    _tile_stored(0, products[i % 2], kDepth);
    _tile_stored(1, products[i % 2] + kRows * kHalf, kDepth);
    before = first;
  }
  if (count > 0) look_through(products[1], static_cast<int32_t>(before), found);
  for (size_t half = 0; half < 2; ++half) {
    BuildAvx512::store(nearest.scores + half * kHalf, found.best[half]);
    BuildAvx512::store(nearest.codes + half * kHalf, found.codes[half]);
  }
}

void offer_either(const CentroidRows& centroids, const uint32_t* runs, size_t count,
                  const int8_t* tile, NearestSoFar& nearest) {
  return centroids.stride <= 2 * kDepth
             ? offer_amx<Resident>(centroids, runs, count, tile, nearest)
             : offer_amx<Streamed>(centroids, runs, count, tile, nearest);
}

}  // namespace

const BuildLeaf& build_leaf_amx() {
  static const BuildLeaf leaf = [] {
    BuildLeaf amx = build_leaf_avx512();
    amx.name = "amx";
    amx.enter = leaf_amx().enter;
    amx.leave = leaf_amx().leave;
    amx.flip = 0;
    amx.offer = offer_either;
    return amx;
  }();
  return leaf;
}

}  // namespace tartan
