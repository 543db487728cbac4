#include "query_pack.hpp"

#include <algorithm>
#include <cmath>

namespace tartan {

namespace {

float largest_magnitude(const float* token, size_t dim) {
  float largest = 0;
  for (size_t d = 0; d < dim; ++d) {
    const float magnitude = std::fabs(token[d]);
    if (!(magnitude <= kMaxMagnitude)) {
      throw std::invalid_argument("query values must be numbers within ±1e6 (no NaN, no infinity)");
    }
    largest = std::max(largest, magnitude);
  }
  return largest;
}

int8_t to_int8(float value) {
  return static_cast<int8_t>(std::clamp(std::nearbyint(value), -127.0f, 127.0f));
}

}  // namespace

void require_query_tokens(size_t tokens) {
  require(tokens >= 1 && tokens <= kMaxQueryTokens,
          "the query has " + std::to_string(tokens) + " tokens; 1 to 1024 are possible");
}

void QueryPack::Plane::clear(size_t lanes, size_t dim) {
  std::memset(i8.grow(lanes * dim), 0, lanes * dim);
  std::memset(u8.grow(lanes * dim), 128, lanes * dim);
  std::memset(sums.grow(lanes), 0, lanes * sizeof(int32_t));
}

QueryPlane QueryPack::Plane::view(size_t first_lane, size_t dim) const {
  return {i8.data() + first_lane * dim, u8.data() + first_lane * dim, sums.data() + first_lane};
}

void QueryPack::pack(std::span<const float> Q_LD, size_t dim) {
  const size_t tokens = Q_LD.size() / dim;
  require_query_tokens(tokens);
  tokens_ = tokens;
  blocks_.clear();
  const size_t lanes = (tokens + kBlock - 1) / kBlock * kBlock;
  const size_t padded = tile_dim(dim);
  high_.clear(lanes, padded);
  low_.clear(lanes, padded);
  std::memset(f32_.grow(lanes * dim), 0, lanes * dim * sizeof(float));
  std::memset(scales_.grow(lanes), 0, lanes * sizeof(float));
  for (size_t first = 0; first < tokens; first += kBlock) {
    QueryBlock block;
    block.first = static_cast<int>(first);
    block.tokens = static_cast<int>(std::min<size_t>(kBlock, tokens - first));
    block.groups = block.tokens > kGroup ? 2 : 1;
    block.quads = static_cast<int>(dim / 4);
    block.high = high_.view(first, padded);
    block.low = low_.view(first, padded);
    block.scales = scales_.data() + first;
    block.f32 = f32_.data() + first * dim;
    for (int lane = 0; lane < block.tokens; ++lane) {
      pack_token(Q_LD.data() + (first + lane) * dim, dim, block, lane);
    }
    blocks_.push_back(block);
  }
}

void QueryPack::pack_token(const float* token, size_t dim, const QueryBlock& block, int lane) {
  const size_t lanes = block.lanes();
  const size_t first_byte = block.first * tile_dim(dim);
  float* const f32 = f32_.data() + block.first * dim;
  float scale = largest_magnitude(token, dim) / 127.0f;
  if (scale < std::numeric_limits<float>::min()) scale = 0;
  for (size_t d = 0; d < dim; ++d) {
    const float value = scale == 0 ? 0.0f : token[d] / scale;
    const int8_t high = to_int8(value);
    const int8_t low = to_int8((value - static_cast<float>(high)) * 254.0f);
    const size_t at = first_byte + (d / 4 * lanes + lane) * 4 + d % 4;
    high_.i8.data()[at] = high;
    high_.u8.data()[at] = static_cast<uint8_t>(high + 128);
    high_.sums.data()[block.first + lane] += high;
    low_.i8.data()[at] = low;
    low_.u8.data()[at] = static_cast<uint8_t>(low + 128);
    low_.sums.data()[block.first + lane] += low;
    f32[d * lanes + lane] = token[d];
  }
  scales_.data()[block.first + lane] = scale;
}

}  // namespace tartan
