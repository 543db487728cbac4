// What is written once per SIMD path: leaf kernels behind function pointers.
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

// Consecutive tokens of one passage, to be scanned against one block of the query. A token's score
// is centroid_weight · dot(centroid) + residual_weight · dot(levels).
struct ScanTokens {
  const uint8_t* residuals = nullptr;       // packed, B bytes a token
  const uint8_t* residuals_end = nullptr;   // end of the whole array
  const uint32_t* rows = nullptr;           // row of `kept`, or code: see Leaf::centroid_dots
  const float* centroid_weights = nullptr;  // alpha · c_scale
  const float* residual_weights = nullptr;  // beta · level_step
  // Where rows of centroids are scanned:
  const uint32_t* codes = nullptr;  // centroid of every token
  const float* alphas = nullptr;
  const float* look_weights = nullptr;  // beta · level_step, for the coarse plane
  const float* lengths = nullptr;  // the most that both parts of a token's vector have together
  size_t count = 0;                // at least 1
  // What is scanned afterwards, to be asked for in time: `rows` goes on with it.
  size_t rows_known = 0;
  const uint8_t* next = nullptr;  // residuals of the next passage
  size_t next_bytes = 0;
};

struct ScanTables {
  int bits = 0;
  CentroidView centroids;
  const float* kept = nullptr;         // [rows][lanes] dots of centroids, or null
  const int16_t* kept_rows = nullptr;  // [rows][lanes] as of `centroid_rows`, or null
  const float* row_steps = nullptr;    // [lanes] what a step of them is worth in dots · c_scale
  const int8_t* levels = nullptr;      // [64] int8 levels of the trellis
  uint8_t* tile = nullptr;             // scratch of tile_bytes(dim)
  uint8_t* centroid_tile = nullptr;    // likewise
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
  bool trellis = false;  // or planes
  size_t dim = 0;
  bool normalize = false;
  CentroidView centroids;
  const float* centroids_f32 = nullptr;  // [C][D] or null
  const float* alpha = nullptr;          // [256]
  const float* beta = nullptr;           // [256]
  const float* levels = nullptr;         // [64], or the 2^bits of planes repeated to fill
  uint8_t* tile = nullptr;               // scratch of tile_bytes(dim)
};

// Which planes of the query are used: the coarse one, or both that are as good as float32.
enum class Planes { kCoarse, kBoth };

struct Offer {
  float score;
  uint32_t centroid;
};

// Where `probe` puts the centroids that may be among a lane's best. `best` holds per lane, in
// descending order, scores of `depth` different centroids: the last one is the lane's threshold.
// Where thresholds do not rise, the last one is all that is read.
struct ProbeLanes {
  Offer* offers = nullptr;     // [lanes][capacity]; null where only thresholds are asked for
  uint32_t* counts = nullptr;  // [lanes]
  size_t capacity = 0;         // at least depth + 1
  float* best = nullptr;       // [depth][lanes]
  size_t depth = 0;            // at least 1
  bool rise = true;            // thresholds, with what is seen
  void (*full)(void* selector, size_t lane) = nullptr;  // makes room for another offer
  void* selector = nullptr;
  size_t first_lane = 0;         // of the block, for `full`
  const float* gains = nullptr;  // as of `centroid_rows`
  int16_t* rows = nullptr;       // [C][lanes] of all centroids, written on the way; or null
};

struct Leaf {
  const char* name;
  // What a thread must do before and after it calls centroid_scores, probe or scan; null for
  // nothing.
  void (*enter)();
  void (*leave)();
  // Whether `scan` can multiply each token's centroid anew, which is quicker for few tokens than
  // keeping the dots of centroids.
  bool multiplies_centroids;
  // Whether `scan` looks up rows of centroids instead of their dots, which then are not asked for.
  bool scans_rows;
  // dots[r][lane] of the centroids ids[r] with both planes, as float: computed once a query and
  // kept, for `scan` to look up.
  void (*centroid_dots)(const CentroidView&, const uint32_t* ids, size_t count, const QueryBlock&,
                        float* dots);
  // rows[r][lane] = dot of the centroid ids[r] with the coarse plane · c_scale · gains[lane],
  // rounded.
  void (*centroid_rows)(const CentroidView&, const uint32_t* ids, size_t count, const QueryBlock&,
                        const float* gains, int16_t* rows);
  // best[lane] = the largest of rows[ids[t]][lane], at least one.
  void (*largest_row)(const int16_t* rows, const uint32_t* ids, size_t count, int lanes,
                      int16_t* best);
  // Offers to every lane the centroids in [begin, end), in ascending order, that exceed its
  // threshold.
  void (*probe)(const CentroidView&, uint32_t begin, uint32_t end, const QueryBlock&,
                const ProbeLanes&);
  // best[lane] = q_scale · the largest token score of the passage.
  void (*scan)(const ScanTokens&, const ScanTables&, const QueryBlock&, float* best);
  // dots[i] of the query's first lane with the levels of packed rows, both planes, as float; `end`
  // of the array that they lie in, and `tables` without centroids.
  void (*level_dots)(const uint8_t* const* rows, size_t count, const uint8_t* end,
                     const ScanTables&, const QueryBlock&, float* dots);
  // Token vectors in float32, `vector_stride(dim)` floats apart.
  void (*decode)(const DecodeTokens&, const DecodeTables&, float* vectors);
  // dots[t][lane] of decoded vectors with the float query.
  void (*dots)(const float* vectors, size_t count, size_t dim, const QueryBlock&, float* dots);
  // rotated[l][d] = Σ_k vectors[l][k] · rotation[k][d] by ascending k, all of row length dim.
  void (*rotate)(const float* vectors, size_t tokens, const float* rotation, size_t dim,
                 float* rotated);
};

const Leaf& leaf_portable();
const Leaf& leaf_avx2();
const Leaf& leaf_avx512();
const Leaf& leaf_amx();
const Leaf& leaf_neon();
// Whether this process may use the matrix unit; asks the kernel for it.
bool amx_allowed();

constexpr size_t kTileRows = 128;    // tokens that a path works on at once, at most
constexpr size_t kUnpackSlack = 64;  // bytes that unpacking may read or write too far

inline constexpr size_t tile_stride(size_t dim) { return tile_dim(dim) + kUnpackSlack; }
inline constexpr size_t tile_bytes(size_t dim) {
  // the last row holds a copy of packed bytes that lie at the end of their array
  return (kTileRows + 1) * tile_stride(dim);
}
inline constexpr size_t vector_stride(size_t dim) { return (dim + 15) / 16 * 16; }

}  // namespace tartan
