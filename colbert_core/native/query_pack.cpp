#include "query_pack.hpp"

#include <algorithm>
#include <cmath>

namespace tartan {

namespace {

float largest_magnitude(const float* token, size_t dim, float most) {
  float largest = 0;
  for (size_t d = 0; d < dim; ++d) {
    const float magnitude = std::fabs(token[d]);
    if (!(magnitude <= most)) {
      throw std::invalid_argument("query values must be numbers within ±1e6 (no NaN, no infinity)");
    }
    largest = std::max(largest, magnitude);
  }
  return largest;
}

// The nearest integer, ties to even, for |value| < 2^22: what is below 1 falls off the mantissa.
// Unlike nearbyint, which is a call on the oldest processors, it leaves loops that the compiler can
// widen.
float round_small(float value) {
  constexpr float kOnesOnly = 12582912.0f;  // 1.5 · 2^23
  return (value + kOnesOnly) - kOnesOnly;
}

// How far a score by the coarse plane may be from one by both, in steps of the high one and for a
// stored vector of length 1: the length of what they differ by (Cauchy and Schwarz). Besides, a
// 2^15th of the coarse one's length: half a step of an int16 row, of 32,000, and all rounding.
float doubt_of(float squared_difference, int32_t coarse_squares) {
  const float rounding =
      std::sqrt(static_cast<float>(coarse_squares)) * kCoarseStep / static_cast<float>(1 << 15);
  return 1.001f * std::sqrt(squared_difference) + rounding;
}

// What a largest magnitude of `most` is a step of; 0 where that is not a normal number.
float scale_of(float largest, int most) {
  const float scale = largest / static_cast<float>(most);
  return scale < std::numeric_limits<float>::min() ? 0.0f : scale;
}

float within(float value, float most) { return std::min(std::max(value, -most), most); }

}  // namespace

void require_query_tokens(size_t tokens) {
  require(tokens >= 1 && tokens <= kMaxQueryTokens,
          "the query has " + std::to_string(tokens) + " tokens; 1 to 1024 are possible");
}

void QueryPack::Plane::clear(size_t lanes, size_t dim) {
  std::memset(i8.grow(lanes * dim), 0, lanes * dim);
  std::memset(sums.grow(lanes), 0, lanes * sizeof(int32_t));
}

void QueryPack::Plane::fill_unsigned(size_t lanes, size_t dim) {
  uint8_t* const out = u8.grow(lanes * dim);
  for (size_t i = 0; i < lanes * dim; ++i) out[i] = static_cast<uint8_t>(i8.data()[i] + bias);
}

QueryPlane QueryPack::Plane::view(size_t first_lane, size_t dim) const {
  return {i8.data() + first_lane * dim, u8.data() + first_lane * dim, sums.data() + first_lane,
          bias};
}

void QueryPack::pack(std::span<const float> Q_LD, size_t dim, float most) {
  const size_t tokens = Q_LD.size() / dim;
  require_query_tokens(tokens);
  tokens_ = tokens;
  blocks_.clear();
  const size_t lanes = this->lanes();
  const size_t padded = padded_dim_ = tile_dim(dim);
  high_.clear(lanes, padded);
  low_.clear(lanes, padded);
  coarse_.clear(lanes, padded);
  high_.u8.grow(lanes * padded);
  low_.u8.grow(lanes * padded);
  coarse_.u8.grow(lanes * padded);
  std::memset(both_.grow(lanes * padded), 0, lanes * padded * sizeof(int16_t));
  std::memset(f32_.grow(lanes * dim), 0, lanes * dim * sizeof(float));
  std::memset(scales_.grow(lanes), 0, lanes * sizeof(float));
  std::memset(coarse_scales_.grow(lanes), 0, lanes * sizeof(float));
  std::memset(doubts_.grow(lanes), 0, lanes * sizeof(float));
  std::memset(squares_.grow(lanes), 0, lanes * sizeof(int32_t));
  for (size_t first = 0; first < tokens; first += kBlock) {
    QueryBlock block;
    block.first = static_cast<int>(first);
    block.tokens = static_cast<int>(std::min<size_t>(kBlock, tokens - first));
    block.groups = block.tokens > kGroup ? 2 : 1;
    block.quads = static_cast<int>(dim / 4);
    block.high = high_.view(first, padded);
    block.low = low_.view(first, padded);
    block.coarse = coarse_.view(first, padded);
    block.both = both_.data() + first * padded;
    block.scales = scales_.data() + first;
    block.coarse_scales = coarse_scales_.data() + first;
    block.doubts = doubts_.data() + first;
    block.squares = squares_.data() + first;
    block.f32 = f32_.data() + first * dim;
    for (int lane = 0; lane < block.tokens; ++lane) {
      pack_token(Q_LD.data() + (first + lane) * dim, dim, most, block, lane);
    }
    blocks_.push_back(block);
  }
  double total = 0;
  for (size_t lane = 0; lane < tokens; ++lane) {
    const double scale = coarse_scales_.data()[lane];
    total += squares_.data()[lane] * scale * scale;
  }
  length_ = static_cast<float>(std::sqrt(total));
  high_.fill_unsigned(lanes, padded);
  low_.fill_unsigned(lanes, padded);
  coarse_.fill_unsigned(lanes, padded);
}

void QueryPack::pack_token(const float* token, size_t dim, float most, const QueryBlock& block,
                           int lane) {
  const size_t lanes = block.lanes();
  const size_t first_byte = block.first * tile_dim(dim);
  float* const f32 = f32_.data() + block.first * dim;
  const float largest = largest_magnitude(token, dim, most);
  const float scale = scale_of(largest, kHighMost), coarse_scale = scale_of(largest, kCoarseMost);
  const float divisor = scale == 0 ? 1.0f : scale, keep = scale == 0 ? 0.0f : 1.0f;
  const float coarse_divisor = coarse_scale == 0 ? 1.0f : coarse_scale;
  const float coarse_keep = coarse_scale == 0 ? 0.0f : 1.0f;
  alignas(64) int8_t high[kMaxDim], low[kMaxDim], coarse[kMaxDim];
  int32_t high_sum = 0, low_sum = 0, coarse_sum = 0, squares = 0;
  float squared_difference = 0;
  for (size_t d = 0; d < dim; ++d) {
    const float value = token[d] / divisor * keep;
    const float whole = within(round_small(value), kHighMost);
    const float rest = within(round_small((value - whole) * kLowSteps), 127);
    const float rough = within(round_small(token[d] / coarse_divisor * coarse_keep), kCoarseMost);
    high[d] = static_cast<int8_t>(whole);
    low[d] = static_cast<int8_t>(rest);
    coarse[d] = static_cast<int8_t>(rough);
    high_sum += high[d];
    low_sum += low[d];
    coarse_sum += coarse[d];
    squares += coarse[d] * coarse[d];
    const float difference = whole + rest * kLowPart - rough * kCoarseStep;
    squared_difference += difference * difference;
  }
  for (size_t quad = 0; quad < dim / 4; ++quad) {
    const size_t at = first_byte + (quad * lanes + static_cast<size_t>(lane)) * 4;
    std::memcpy(high_.i8.data() + at, high + 4 * quad, 4);
    std::memcpy(low_.i8.data() + at, low + 4 * quad, 4);
    std::memcpy(coarse_.i8.data() + at, coarse + 4 * quad, 4);
  }
  const size_t of_all = static_cast<size_t>(block.first + lane);
  int16_t* const both = both_.data() + of_all * tile_dim(dim);
  for (size_t d = 0; d < dim; ++d) {
    both[d] = static_cast<int16_t>(high[d] * kLowSteps + low[d]);
    f32[d * lanes + lane] = token[d];
  }
  high_.sums.data()[of_all] = high_sum;
  low_.sums.data()[of_all] = low_sum;
  coarse_.sums.data()[of_all] = coarse_sum;
  squares_.data()[of_all] = squares;
  scales_.data()[of_all] = scale;
  coarse_scales_.data()[of_all] = coarse_scale;
  doubts_.data()[of_all] = doubt_of(squared_difference, squares);
}

}  // namespace tartan
