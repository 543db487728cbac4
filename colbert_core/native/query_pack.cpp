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

float to_int8_range(float value) { return std::min(std::max(value, -127.0f), 127.0f); }

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
  for (size_t i = 0; i < lanes * dim; ++i) out[i] = static_cast<uint8_t>(i8.data()[i] + 128);
}

QueryPlane QueryPack::Plane::view(size_t first_lane, size_t dim) const {
  return {i8.data() + first_lane * dim, u8.data() + first_lane * dim, sums.data() + first_lane};
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
  high_.u8.grow(lanes * padded);
  low_.u8.grow(lanes * padded);
  std::memset(both_.grow(lanes * padded), 0, lanes * padded * sizeof(int16_t));
  std::memset(f32_.grow(lanes * dim), 0, lanes * dim * sizeof(float));
  std::memset(scales_.grow(lanes), 0, lanes * sizeof(float));
  std::memset(squares_.grow(lanes), 0, lanes * sizeof(int32_t));
  for (size_t first = 0; first < tokens; first += kBlock) {
    QueryBlock block;
    block.first = static_cast<int>(first);
    block.tokens = static_cast<int>(std::min<size_t>(kBlock, tokens - first));
    block.groups = block.tokens > kGroup ? 2 : 1;
    block.quads = static_cast<int>(dim / 4);
    block.high = high_.view(first, padded);
    block.low = low_.view(first, padded);
    block.both = both_.data() + first * padded;
    block.scales = scales_.data() + first;
    block.squares = squares_.data() + first;
    block.f32 = f32_.data() + first * dim;
    for (int lane = 0; lane < block.tokens; ++lane) {
      pack_token(Q_LD.data() + (first + lane) * dim, dim, most, block, lane);
    }
    blocks_.push_back(block);
  }
  double total = 0;
  for (size_t lane = 0; lane < tokens; ++lane) {
    const double scale = scales_.data()[lane];
    total += squares_.data()[lane] * scale * scale;
  }
  length_ = static_cast<float>(std::sqrt(total));
  high_.fill_unsigned(lanes, padded);
  low_.fill_unsigned(lanes, padded);
}

void QueryPack::pack_token(const float* token, size_t dim, float most, const QueryBlock& block,
                           int lane) {
  const size_t lanes = block.lanes();
  const size_t first_byte = block.first * tile_dim(dim);
  float* const f32 = f32_.data() + block.first * dim;
  float scale = largest_magnitude(token, dim, most) / 127.0f;
  if (scale < std::numeric_limits<float>::min()) scale = 0;
  alignas(64) int8_t high[kMaxDim], low[kMaxDim];
  int32_t high_sum = 0, low_sum = 0, squares = 0;
  const float divisor = scale == 0 ? 1.0f : scale;
  const float keep = scale == 0 ? 0.0f : 1.0f;
  for (size_t d = 0; d < dim; ++d) {
    const float value = token[d] / divisor * keep;
    const float whole = to_int8_range(round_small(value));
    const float rest = to_int8_range(round_small((value - whole) * static_cast<float>(kLowSteps)));
    high[d] = static_cast<int8_t>(whole);
    low[d] = static_cast<int8_t>(rest);
    high_sum += high[d];
    squares += high[d] * high[d];
    low_sum += low[d];
  }
  for (size_t quad = 0; quad < dim / 4; ++quad) {
    const size_t at = first_byte + (quad * lanes + static_cast<size_t>(lane)) * 4;
    std::memcpy(high_.i8.data() + at, high + 4 * quad, 4);
    std::memcpy(low_.i8.data() + at, low + 4 * quad, 4);
  }
  int16_t* const both = both_.data() + first_byte + static_cast<size_t>(lane) * 2;
  for (size_t d = 0; d < dim; ++d) {
    both[d / 2 * lanes * 2 + d % 2] = static_cast<int16_t>(high[d] * kLowSteps + low[d]);
    f32[d * lanes + lane] = token[d];
  }
  high_.sums.data()[block.first + lane] = high_sum;
  low_.sums.data()[block.first + lane] = low_sum;
  squares_.data()[block.first + lane] = squares;
  scales_.data()[block.first + lane] = scale;
}

}  // namespace tartan
