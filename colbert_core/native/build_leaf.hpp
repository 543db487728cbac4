// The inner loops of building an index, as each SIMD path provides them.
//
// Shapes: T tokens, C centroids, D dimensions, S bytes between the rows of centroids. All paths
// give the same bits: products of int8 are exact, and every float is summed in one order.
#pragma once

#include "common.hpp"

namespace tartan {

constexpr size_t kTileTokens = 32;  // tokens that meet centroids together
constexpr size_t kHalf = 16;        // of them, in one register or two
constexpr size_t kRun = 32;         // centroids, one after the other, that are visited together
constexpr size_t kDepth = 64;       // dimensions that the matrix unit multiplies at once

inline constexpr size_t padded_dim(size_t dim) { return (dim + kDepth - 1) / kDepth * kDepth; }
inline constexpr size_t build_tile_bytes(size_t dim) { return kTileTokens * padded_dim(dim); }

// Where a tile holds the four bytes of dimensions d … d+3 (d a multiple of 4) of its token t: int8
// [S/64][2][16][16][4], planes of 64 dimensions, halves of 16 tokens, quads of a half side by side.
inline constexpr size_t quad_at(size_t token, size_t d) {
  return ((d / kDepth * 2 + token / kHalf) * kDepth / 4 + d % kDepth / 4) * kHalf * 4 +
         token % kHalf * 4;
}

// The nearest centroid so far of every token of a tile.
struct NearestSoFar {
  alignas(64) int32_t scores[kTileTokens];
  alignas(64) int32_t codes[kTileTokens];

  NearestSoFar() : codes{} {
    for (int32_t& score : scores) score = std::numeric_limits<int32_t>::min();
  }
};

struct CentroidRows {
  const int8_t* data = nullptr;   // [C][S] within ±127, zero beyond D; C is a multiple of kRun
  const int32_t* sums = nullptr;  // [C] of a row's values
  size_t dim = 0;
  size_t stride = 0;  // S, a multiple of kDepth
};

// Float vectors [T][D] with the centroid of each; what quantising fills has as many rows.
struct QuantiseTokens {
  const float* vectors;    // [count][D]
  const int32_t* codes;    // [count]
  const float* centroids;  // [C][D]
  size_t count;
  size_t dim;
  uint8_t* packed;  // out: [count][D · bits / 8], see reference/trellis.py and codec/packing.py
  uint8_t* scales;  // out: [count]
};

constexpr size_t kRatios = 8, kGains = 32;  // steps of either in a scale byte

struct TartanTables {
  int bits;
  const float* levels;  // [64]
  const float* ratios;  // [8] what the low three bits of a scale byte stand for
  const float* gains;   // [32] what the others stand for
};

// Values whose nearest levels along the trellis are wanted.
struct TrellisValues {
  const float* values;  // [count][D]
  const float* levels;  // [64]
  int bits;
  size_t count;
  size_t dim;
  uint8_t* packed;  // out: [count][D · bits / 8]
};

struct ColbertTables {
  int bits;
  const float* levels;   // [2^bits]
  const float* cutoffs;  // [2^bits − 1]
  float lowest;          // inverse norm of scale byte 0
  float steps;           // scale bytes per unit of inverse norm
};

struct BuildLeaf {
  const char* name;
  // What a thread must do before and after it calls `offer`; null for nothing.
  void (*enter)();
  void (*leave)();
  // What the bytes of a tile are xored with: 0x80 makes them unsigned.
  uint8_t flip;
  // Offers the centroids of some runs, in the order given, to the tokens of a tile. Of equal scores
  // the first one stays.
  void (*offer)(const CentroidRows&, const uint32_t* runs, size_t count, const int8_t* tile,
                NearestSoFar&);
  // Float vectors [count][D] as int8 with a scale each, the largest magnitude at 127.
  void (*to_int8)(const float* vectors, size_t count, size_t dim, int8_t* values, float* scales);
  // Adds every row whose code lies in [begin, end), times its weight, to sums[code − begin].
  void (*add_rows)(const int8_t* values, const int32_t* weights, const int32_t* codes, size_t count,
                   size_t dim, int32_t begin, int32_t end, int64_t* sums);
  void (*best_bits)(const TrellisValues&);
  void (*quantise_tartan)(const QuantiseTokens&, const TartanTables&);
  void (*quantise_colbertv2)(const QuantiseTokens&, const ColbertTables&);
};

// The one that belongs to the path in use (cpu.hpp).
const BuildLeaf& active_build_leaf();

const BuildLeaf& build_leaf_portable();
const BuildLeaf& build_leaf_avx2();
const BuildLeaf& build_leaf_avx512();
const BuildLeaf& build_leaf_amx();
const BuildLeaf& build_leaf_neon();

}  // namespace tartan
