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

void QueryPack::pack(std::span<const float> Q_LD, size_t dim) {
  const size_t tokens = Q_LD.size() / dim;
  require_query_tokens(tokens);
  tokens_ = tokens;
  blocks_.clear();
  const size_t lanes = (tokens + kBlock - 1) / kBlock * kBlock;
  i8_.grow(lanes * dim);
  u8_.grow(lanes * dim);
  f32_.grow(lanes * dim);
  sums_.grow(lanes);
  scales_.grow(lanes);
  std::memset(i8_.data(), 0, lanes * dim);
  std::memset(u8_.data(), 128, lanes * dim);
  std::memset(f32_.data(), 0, lanes * dim * sizeof(float));
  std::memset(sums_.data(), 0, lanes * sizeof(int32_t));
  std::memset(scales_.data(), 0, lanes * sizeof(float));
  for (size_t first = 0; first < tokens; first += kBlock) {
    QueryBlock block;
    block.first = static_cast<int>(first);
    block.tokens = static_cast<int>(std::min<size_t>(kBlock, tokens - first));
    block.groups = block.tokens > kGroup ? 2 : 1;
    block.quads = static_cast<int>(dim / 4);
    block.i8 = i8_.data() + first * dim;
    block.u8 = u8_.data() + first * dim;
    block.f32 = f32_.data() + first * dim;
    block.sums = sums_.data() + first;
    block.scales = scales_.data() + first;
    for (int lane = 0; lane < block.tokens; ++lane) {
      pack_token(Q_LD.data() + (first + lane) * dim, dim, block, lane);
    }
    blocks_.push_back(block);
  }
}

void QueryPack::pack_token(const float* token, size_t dim, QueryBlock& block, int lane) {
  const size_t lanes = block.lanes();
  int8_t* const i8 = i8_.data() + block.first * dim;
  uint8_t* const u8 = u8_.data() + block.first * dim;
  float* const f32 = f32_.data() + block.first * dim;
  float scale = largest_magnitude(token, dim) / 127.0f;
  if (scale < std::numeric_limits<float>::min()) scale = 0;
  int32_t sum = 0;
  for (size_t d = 0; d < dim; ++d) {
    const int8_t value = scale == 0 ? int8_t{0} : to_int8(token[d] / scale);
    const size_t at = (d / 4 * lanes + lane) * 4 + d % 4;
    i8[at] = value;
    u8[at] = static_cast<uint8_t>(value + 128);
    f32[d * lanes + lane] = token[d];
    sum += value;
  }
  sums_.data()[block.first + lane] = sum;
  scales_.data()[block.first + lane] = scale;
}

}  // namespace tartan
