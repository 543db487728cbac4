// What is written once per SIMD path: five leaf kernels behind function pointers.
//
// A leaf_*.cpp file is compiled with the flags of its instruction set, so nothing in it may be an
// inline function that other files share: the linker could keep the copy that this processor cannot
// run. Leaf kernels therefore work on plain pointers and include only leaf_kernels.hpp, which lies
// in an anonymous namespace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "query_pack.hpp"

namespace tartan {

struct CentroidView {
  const int8_t* codes = nullptr;  // [C][D]
  const float* scales = nullptr;  // [C]
  const int32_t* sums = nullptr;  // [C] sum of the codes of a centroid
  size_t dim = 0;
};

// Consecutive tokens of one passage, to be scanned against one block of the query.
struct ScanTokens {
  const uint8_t* residuals = nullptr;      // packed, B bytes a token
  const uint8_t* residuals_end = nullptr;  // end of the whole array
  const uint8_t* scales = nullptr;
  const uint32_t* rows = nullptr;  // per token its row of `S`
  size_t count = 0;                // at least 1
};

struct ScanTables {
  int bits = 0;
  size_t dim = 0;
  const float* S = nullptr;        // [rows][lanes] centroid scores
  const float* alpha = nullptr;    // [256]
  const float* weight = nullptr;   // [256] beta · level_step
  const int8_t* levels = nullptr;  // [16] int8 levels, repeated to fill
  uint8_t* tile = nullptr;         // scratch of tile_bytes(dim)
};

struct DecodeTokens {
  const uint8_t* residuals = nullptr;
  const uint8_t* residuals_end = nullptr;
  const uint8_t* scales = nullptr;
  const uint32_t* codes = nullptr;  // centroid of every token
  size_t count = 0;
};

struct DecodeTables {
  int bits = 0;
  size_t dim = 0;
  bool normalize = false;
  CentroidView centroids;
  const float* centroids_f32 = nullptr;  // [C][D] or null
  const float* alpha = nullptr;          // [256]
  const float* beta = nullptr;           // [256]
  const float* levels = nullptr;         // [16]
  uint8_t* tile = nullptr;               // scratch of tile_bytes(dim)
};

// Which planes of the query are used: the high one, or both for scores as good as float32's.
enum class Planes { kHigh, kBoth };

// Called by `probe` for the lanes of one group (bits of `lanes`) whose score exceeds the threshold;
// may raise the thresholds.
using Offer = void (*)(void* context, uint32_t centroid, int group, uint32_t lanes,
                       const float* scores);

struct Leaf {
  const char* name;

  // What a thread must do before and after it calls centroid_scores, probe or scan; null for nothing.
  void (*enter)();
  void (*leave)();
  // scores[r][lane] of the centroids ids[r].
  void (*centroid_scores)(const CentroidView&, const uint32_t* ids, size_t count, const QueryBlock&,
                          Planes, float* scores);
  // Offers every centroid in [begin, end) that beats a lane's threshold, in ascending order.
  void (*probe)(const CentroidView&, uint32_t begin, uint32_t end, const QueryBlock&,
                const float* thresholds, Offer, void* context);
  // best[lane] = the largest token score of the passage.
  void (*scan)(const ScanTokens&, const ScanTables&, const QueryBlock&, Planes, float* best);
  // Token vectors in float32, `vector_stride(dim)` floats apart.
  void (*decode)(const DecodeTokens&, const DecodeTables&, float* vectors);
  // dots[t][lane] of decoded vectors with the float query.
  void (*dots)(const float* vectors, size_t count, size_t dim, const QueryBlock&, float* dots);
};

const Leaf& leaf_portable();
const Leaf& leaf_avx2();
const Leaf& leaf_avx512();
const Leaf& leaf_amx();
// Whether this process may use the matrix unit; asks the kernel for it.
bool amx_allowed();

constexpr size_t kTileRows = 32;     // tokens that the widest path works on at once
constexpr size_t kUnpackSlack = 64;  // bytes that unpacking may read or write too far

inline constexpr size_t tile_stride(size_t dim) { return tile_dim(dim) + kUnpackSlack; }
inline constexpr size_t tile_bytes(size_t dim) {
  // the last row holds a copy of packed bytes that lie at the end of their array
  return (kTileRows + 1) * tile_stride(dim);
}
inline constexpr size_t vector_stride(size_t dim) { return (dim + 15) / 16 * 16; }

}  // namespace tartan
