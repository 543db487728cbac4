// A query laid out for the kernels: one query token is one SIMD lane.
//
// Tokens are taken in blocks of 32; a block has 32 lanes (two groups of 16), or 16 if 16 hold its
// tokens. Inside a block four dimensions of a lane lie together: int8 [D/4][lanes][4], so that one
// 32-bit broadcast of a stored vector meets one load of the query, and sixteen such quads are a
// tile of the matrix unit. Empty lanes are zero, and so are dimensions up to the next multiple
// of 64.
//
// For precise scores a query has two int8 planes, q ≈ (high + low / 256) · scale: 16 bits are as
// good as float32. As 256 · high + low they are int16, lane by lane, for single pairs of tokens;
// their products with bytes add up within an int32 for 512 dimensions, for 512 · 128 · (256 · 127 +
// 127) is below 2^31.
//
// For probing and centroid interaction it has a coarse plane, q ≈ coarse · scale, within ±32. With
// 32 added it is unsigned, and four of its products with bytes add up within an int16: they are at
// least −4 · 64 · 128 = −2^15. (reference/arithmetic.py defines all: `quantise_query` and
// `coarse_query`.)
#pragma once

#include <span>
#include <vector>

#include "common.hpp"

namespace tartan {

constexpr int kGroup = 16;  // lanes that rows are whole multiples of
constexpr int kBlock = 32;  // lanes of a full block

constexpr int kHighMost = 127;   // the largest magnitude of the high plane
constexpr int kLowSteps = 256;   // steps of the low plane in one of the high one
constexpr int kCoarseMost = 32;  // the largest magnitude of the coarse plane
constexpr float kLowPart = 1.0f / kLowSteps;
constexpr float kCoarseStep = float{kHighMost} / kCoarseMost;  // in steps of the high plane
constexpr size_t kPairDims = 512;  // that `QueryBlock::both` may be multiplied over

// One int8 plane of a block.
struct QueryPlane {
  const int8_t* i8 = nullptr;     // [tile_dim/4][lanes][4]
  const uint8_t* u8 = nullptr;    // the same + bias, for instructions that want it unsigned
  const int32_t* sums = nullptr;  // [lanes] sum of i8 over the dimensions
  int bias = 0;
};

inline constexpr size_t tile_dim(size_t dim) { return (dim + 63) / 64 * 64; }

struct QueryBlock {
  int first = 0;   // query token of lane 0
  int tokens = 0;  // lanes in use
  int groups = 0;  // of kGroup lanes: 1 or 2
  int quads = 0;   // D / 4
  QueryPlane high, low, coarse;
  const int16_t* both = nullptr;         // [lanes][tile_dim] 256 · high + low
  const float* scales = nullptr;         // [lanes] of the two planes
  const float* coarse_scales = nullptr;  // [lanes]
  const float* doubts = nullptr;         // [lanes] as of `doubt_of`
  const int32_t* squares = nullptr;      // [lanes] sum of the squares of the coarse plane
  const float* f32 = nullptr;            // [D][lanes]

  int lanes() const { return groups * kGroup; }
};

// Throws std::invalid_argument unless a query may have this many tokens.
void require_query_tokens(size_t tokens);

class QueryPack {
 public:
  // Q_LD: L·D floats, checked to lie within ±most. Throws std::invalid_argument.
  void pack(std::span<const float> Q_LD, size_t dim, float most = kMaxMagnitude);

  const std::vector<QueryBlock>& blocks() const { return blocks_; }
  size_t tokens() const { return tokens_; }
  // √Σ‖q‖² over the tokens, by their coarse planes: what margins are counted in.
  float length() const { return length_; }
  // In all blocks, empty ones included.
  size_t lanes() const { return (tokens_ + kBlock - 1) / kBlock * kBlock; }
  // All bytes of the coarse plane.
  std::span<const int8_t> coarse_plane() const {
    return {coarse_.i8.data(), lanes() * padded_dim_};
  }

 private:
  // The memory of one plane of all blocks.
  struct Plane {
    explicit Plane(int bias) : bias(bias) {}

    int bias;
    AlignedBuffer<int8_t> i8;
    AlignedBuffer<uint8_t> u8;
    AlignedBuffer<int32_t> sums;

    void clear(size_t lanes, size_t dim);
    void fill_unsigned(size_t lanes, size_t dim);
    QueryPlane view(size_t first_lane, size_t dim) const;
  };

  void pack_token(const float* token, size_t dim, float most, const QueryBlock& block, int lane);

  std::vector<QueryBlock> blocks_;
  Plane high_{128}, low_{128}, coarse_{kCoarseMost};
  AlignedBuffer<int16_t> both_;
  AlignedBuffer<float> scales_, coarse_scales_, doubts_;
  AlignedBuffer<int32_t> squares_;
  AlignedBuffer<float> f32_;
  size_t tokens_ = 0;
  size_t padded_dim_ = 0;
  float length_ = 0;
};

}  // namespace tartan
