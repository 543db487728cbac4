#include "build_nearest.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "build_threads.hpp"

namespace tartan {

namespace {

constexpr size_t kBlockBytes = 1u << 18;  // of tokens that stay in the second cache
constexpr size_t kChunkBytes = 1u << 15;  // of centroids that stay in the first
constexpr size_t kAhead = 64;             // tokens
constexpr size_t kLine = 64;              // bytes that are fetched at once

// A thread with the registers that a path needs.
class Entered {
 public:
  explicit Entered(const BuildLeaf& leaf) : leaf_(leaf) {
    if (leaf_.enter != nullptr) leaf_.enter();
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  ~Entered() {
    if (leaf_.leave != nullptr) leaf_.leave();
  }

 private:
  const BuildLeaf& leaf_;
};

}  // namespace

NearestCentroid::NearestCentroid(std::span<const int8_t> codes_CD, size_t dim)
    : leaf_(active_build_leaf()) {
  require(dim >= 8 && dim <= kMaxDim && dim % 8 == 0,
          "dimension " + std::to_string(dim) + " must be a multiple of 8 from 8 to 1024");
  count_ = codes_CD.size() / dim;
  require(count_ >= 1, "codes_CD has no centroids; at least 1 is needed");
  require(count_ < (size_t{1} << 31) - kRun, "codes_CD has more than 2^31 centroids");
  require(std::find(codes_CD.begin(), codes_CD.end(), int8_t{-128}) == codes_CD.end(),
          "codes_CD holds -128; values must lie within ±127");
  const size_t stride = padded_dim(dim);
  int8_t* const data = data_.grow(runs() * kRun * stride);
  int32_t* const sums = sums_.grow(runs() * kRun);
  for (size_t c = 0; c < runs() * kRun; ++c) {
    // Behind the last centroid lie copies of it: they come later, so they never win.
    const int8_t* const row = codes_CD.data() + std::min(c, count_ - 1) * dim;
    std::copy_n(row, dim, data + c * stride);
    sums[c] = std::accumulate(row, row + dim, int32_t{0});
  }
  rows_ = {data, sums, dim, stride};
}

void NearestCentroid::assign(std::span<const int8_t> tokens_TD, size_t threads,
                             int32_t* codes_T) const {
  const size_t tokens = tokens_TD.size() / dim();
  const size_t tile_bytes = build_tile_bytes(dim());
  const size_t tiles_each = (tokens + kTileTokens * threads - 1) / (kTileTokens * threads);
  const size_t block =
      std::clamp<size_t>(kBlockBytes / tile_bytes, 1, std::max<size_t>(tiles_each, 1)) *
      kTileTokens;
  const size_t chunk = std::max<size_t>(kChunkBytes / (kRun * rows_.stride), 1);
  std::vector<uint32_t> all(runs());
  std::iota(all.begin(), all.end(), 0u);
  for_each_part((tokens + block - 1) / block, threads, [&] {
    return [&, tiles = std::make_unique<AlignedBuffer<int8_t>>(),
            nearest = std::vector<NearestSoFar>(block / kTileTokens)](size_t part) mutable {
      const Entered entered(leaf_);
      const size_t first = part * block;
      const size_t count = std::min(block, tokens - first);
      const size_t tile_count = (count + kTileTokens - 1) / kTileTokens;
      int8_t* const data = tiles->grow(block / kTileTokens * tile_bytes);
      for (size_t i = 0; i < tile_count; ++i) {
        const size_t at = i * kTileTokens;
        pack(tokens_TD.data() + (first + at) * dim(), nullptr, std::min(kTileTokens, count - at),
             data + i * tile_bytes);
        nearest[i] = NearestSoFar();
      }
      for (size_t run = 0; run < all.size(); run += chunk) {
        const size_t visited = std::min(chunk, all.size() - run);
        for (size_t i = 0; i < tile_count; ++i) {
          leaf_.offer(rows_, all.data() + run, visited, data + i * tile_bytes, nearest[i]);
        }
      }
      for (size_t i = 0; i < tile_count; ++i) {
        const size_t at = i * kTileTokens;
        std::copy_n(nearest[i].codes, std::min(kTileTokens, count - at), codes_T + first + at);
      }
    };
  });
}

void NearestCentroid::assign_among(std::span<const int8_t> tokens_TD, const TokenGroups& groups,
                                   size_t threads, int32_t* codes_T) const {
  check_groups(groups, tokens_TD.size() / dim());
  const size_t count = groups.starts_G1.size() - 1;
  const size_t visited = count == 0 ? 0 : groups.runs_GM.size() / count;
  for_each_part(count, threads, [&] {
    return [&, tile = std::make_unique<AlignedBuffer<int8_t>>()](size_t group) {
      const Entered entered(leaf_);
      int8_t* const data = tile->grow(build_tile_bytes(dim()));
      const auto* const runs =
          reinterpret_cast<const uint32_t*>(groups.runs_GM.data()) + group * visited;
      const auto end = static_cast<size_t>(groups.starts_G1[group + 1]);
      for (auto at = static_cast<size_t>(groups.starts_G1[group]); at < end; at += kTileTokens) {
        const int32_t* const order = groups.order_T.data() + at;
        const size_t tokens = std::min(kTileTokens, end - at);
        // The tokens of a group lie anywhere: those of the next tiles are fetched meanwhile.
        const size_t ahead = std::min(at + kAhead, groups.order_T.size());
        fetch(tokens_TD.data(), groups.order_T.data() + ahead,
              std::min(kTileTokens, groups.order_T.size() - ahead));
        NearestSoFar nearest;
        pack(tokens_TD.data(), order, tokens, data);
        leaf_.offer(rows_, runs, visited, data, nearest);
        for (size_t t = 0; t < tokens; ++t) codes_T[order[t]] = nearest.codes[t];
      }
    };
  });
}

void NearestCentroid::pack(const int8_t* tokens, const int32_t* order, size_t count,
                           int8_t* tile) const {
  const uint32_t flip = leaf_.flip * 0x01010101u;
  for (size_t t = 0; t < count; ++t) {
    const int8_t* const token =
        tokens + (order == nullptr ? t : static_cast<size_t>(order[t])) * dim();
    for (size_t d = 0; d < dim(); d += 4) {
      uint32_t quad;
      std::memcpy(&quad, token + d, 4);
      quad ^= flip;
      std::memcpy(tile + quad_at(t, d), &quad, 4);
    }
  }
}

void NearestCentroid::fetch(const int8_t* tokens, const int32_t* order, size_t count) const {
  for (size_t t = 0; t < count; ++t) {
    const int8_t* const token = tokens + static_cast<size_t>(order[t]) * dim();
    for (size_t d = 0; d < dim(); d += kLine) __builtin_prefetch(token + d);
  }
}

void NearestCentroid::check_groups(const TokenGroups& groups, size_t tokens) const {
  require(groups.order_T.size() == tokens, "order_T has " + std::to_string(groups.order_T.size()) +
                                               " entries for " + std::to_string(tokens) +
                                               " tokens");
  for (const int32_t token : groups.order_T) {
    require(token >= 0 && static_cast<size_t>(token) < tokens,
            "order_T must lie below the number of tokens, " + std::to_string(tokens));
  }
  require(!groups.starts_G1.empty() && groups.starts_G1.front() == 0 &&
              groups.starts_G1.back() == static_cast<int64_t>(tokens) &&
              std::is_sorted(groups.starts_G1.begin(), groups.starts_G1.end()),
          "starts_G1 must ascend from 0 to the number of tokens, " + std::to_string(tokens));
  const size_t count = groups.starts_G1.size() - 1;
  require(groups.runs_GM.size() % std::max<size_t>(count, 1) == 0 && groups.runs_GM.size() >= count,
          "runs_GM must have " + std::to_string(count) + " rows of at least one run");
  for (const int32_t run : groups.runs_GM) {
    require(run >= 0 && static_cast<size_t>(run) < runs(),
            "runs_GM must lie below the number of runs, " + std::to_string(runs()));
  }
}

}  // namespace tartan
