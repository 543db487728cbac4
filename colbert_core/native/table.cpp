#include "table.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <thread>

#include "cpu.hpp"
#include "scratch.hpp"
#include "select.hpp"

namespace tartan {

namespace {

constexpr float kLargestRow = 32000.0f;  // of an int16, with room for rounding
constexpr uint32_t kLeastPerThread = 8192;

// Lanes without a query token are never offered anything.
constexpr float kUnused = std::numeric_limits<float>::infinity();

}  // namespace

void ProbeSelector::reset(const QueryPack& query, size_t nprobe, size_t centroids) {
  nprobe_ = nprobe;
  capacity_ = std::min(8 * nprobe + 64, centroids + 1);
  const size_t lanes = (query.tokens() + kBlock - 1) / kBlock * kBlock;
  offers_.resize(std::max(offers_.size(), lanes * capacity_));
  counts_.assign(lanes, 0);
  best_.assign(lanes * nprobe_, -std::numeric_limits<float>::infinity());
  threshold_at_.resize(lanes);
  for (const QueryBlock& block : query.blocks()) {
    float* const threshold = lanes_of(block) + (nprobe_ - 1) * static_cast<size_t>(block.lanes());
    std::fill(threshold + block.tokens, threshold + block.lanes(), kUnused);
    for (int lane = 0; lane < block.lanes(); ++lane) {
      threshold_at_[static_cast<size_t>(block.first + lane)] =
          static_cast<size_t>(threshold + lane - best_.data());
    }
  }
}

float* ProbeSelector::lanes_of(const QueryBlock& block) {
  return best_.data() + static_cast<size_t>(block.first) * nprobe_;
}

ProbeLanes ProbeSelector::lanes(const QueryBlock& block) {
  const size_t first = static_cast<size_t>(block.first);
  return {offers_.data() + first * capacity_,
          counts_.data() + first,
          capacity_,
          lanes_of(block),
          nprobe_,
          make_room,
          this,
          first};
}

void ProbeSelector::offer(size_t token, Offer offered) {
  offers_[token * capacity_ + counts_[token]] = offered;
  if (++counts_[token] == capacity_) cut(token);
}

void ProbeSelector::make_room(void* selector, size_t token) {
  static_cast<ProbeSelector*>(selector)->cut(token);
}

void ProbeSelector::cut(size_t token) {
  const auto kept = finish(token);
  Offer* const offers = offers_.data() + token * capacity_;
  for (size_t i = 0; i < kept.size(); ++i) offers[i] = {key_score(kept[i]), key_id(kept[i])};
  counts_[token] = static_cast<uint32_t>(kept.size());
}

std::span<const uint64_t> ProbeSelector::finish(size_t token) {
  // Most offers were made before the threshold rose to what it is.
  const float threshold = best_[threshold_at_[token]];
  const Offer* const offers = offers_.data() + token * capacity_;
  keys_.resize(counts_[token] + 1);
  uint64_t* end = keys_.data();
  for (size_t i = 0; i < counts_[token]; ++i) {
    *end = rank_key(offers[i].score, offers[i].centroid);
    end += !(offers[i].score < threshold);
  }
  keys_.resize(static_cast<size_t>(end - keys_.data()));
  keep_best(keys_, nprobe_);
  sort_best_first(keys_);
  return keys_;
}

CentroidTable::~CentroidTable() = default;

CentroidTable::CentroidTable(std::span<const int8_t> codes_CD, size_t dim,
                             std::span<const float> scales_C)
    : codes_(codes_CD), scales_(scales_C), sums_(scales_C.size()), dim_(dim) {
  require(dim >= 8 && dim <= kMaxDim && dim % 8 == 0,
          "dimension " + std::to_string(dim) + " must be a multiple of 8 from 8 to 1024");
  const size_t count = codes_CD.size() / dim;
  require(count >= 1, "codes_CD has no centroids; at least 1 is needed");
  require(count < (size_t{1} << 31), "codes_CD has more than 2^31 centroids");
  require(scales_C.size() == count, "scales_C has " + std::to_string(scales_C.size()) +
                                        " entries for " + std::to_string(count) + " centroids");
  for (const float scale : scales_C) {
    require(scale >= 0 && scale <= kMaxMagnitude, "scales_C must lie in [0, 1e6]");
  }
  for (size_t c = 0; c < count; ++c) {
    int32_t sum = 0, squares = 0;
    for (size_t d = 0; d < dim; ++d) {
      const int32_t code = codes_CD[c * dim + d];
      sum += code;
      squares += code * code;
    }
    sums_[c] = sum;
    longest_ = std::max(longest_, std::sqrt(static_cast<double>(squares)) * scales_C[c]);
  }
}

void CentroidTable::find_gains(const QueryBlock& block, float* gains) const {
  for (int lane = 0; lane < block.lanes(); ++lane) {
    const double longest = std::sqrt(static_cast<double>(block.squares[lane])) * longest_;
    const bool used = lane < block.tokens && longest > 0;
    gains[lane] = used ? kLargestRow / static_cast<float>(longest) : 0.0f;
  }
}

void CentroidTable::select(const QueryPack& query, uint32_t begin, uint32_t end,
                           ProbeSelector& selector, CentroidRows* rows) const {
  const LeafScope leaf;
  for (const QueryBlock& block : query.blocks()) {
    alignas(64) float gains[kBlock];
    find_gains(block, gains);
    ProbeLanes lanes = selector.lanes(block);
    lanes.gains = gains;
    if (rows != nullptr) lanes.rows = rows->values.data() + block.first * centroids();
    leaf->probe(view(), begin, end, block, lanes);
  }
}

void CentroidTable::probe(const QueryPack& query, size_t nprobe, size_t threads, bool keep_rows,
                          int32_t* ids, float* scores) const {
  const uint32_t count = static_cast<uint32_t>(centroids());
  const size_t kept = std::min<size_t>(nprobe, count);
  auto selector = selectors_.borrow();
  selector->reset(query, kept, count);
  const std::shared_ptr<CentroidRows> rows = keep_rows ? rows_.blank(query, count) : nullptr;
  threads = std::clamp<size_t>(count / kLeastPerThread, 1, threads);
  if (threads == 1) {
    select(query, 0, count, *selector, rows.get());
  } else {
    // Each thread selects from its own range; offered range after range, ties stay by smaller id.
    std::vector<ProbeSelector> parts(threads);
    std::vector<std::exception_ptr> errors(threads);
    {
      std::vector<std::jthread> workers;
      for (size_t i = 0; i < threads; ++i) {
        workers.emplace_back([&, i] {
          try {
            parts[i].reset(query, kept, count);
            select(query, static_cast<uint32_t>(i * count / threads),
                   static_cast<uint32_t>((i + 1) * count / threads), parts[i], rows.get());
          } catch (...) {
            errors[i] = std::current_exception();
          }
        });
      }
    }
    for (const auto& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    for (size_t token = 0; token < query.tokens(); ++token) {
      for (ProbeSelector& part : parts) {
        for (const uint64_t key : part.finish(token)) {
          selector->offer(token, {key_score(key), key_id(key)});
        }
      }
    }
  }
  if (rows) rows_.keep(rows);
  for (size_t token = 0; token < query.tokens(); ++token) {
    size_t at = token * kept;
    for (const uint64_t key : selector->finish(token)) {
      ids[at] = static_cast<int32_t>(key_id(key));
      scores[at++] = key_score(key);
    }
  }
}

}  // namespace tartan
