#include "probe_selector.hpp"

#include <algorithm>
#include <limits>

#include "select.hpp"

namespace tartan {

namespace {

// Lanes without a query token are never offered anything.
constexpr float kUnused = std::numeric_limits<float>::infinity();

}  // namespace

void ProbeSelector::reset(const QueryPack& query, size_t nprobe, size_t centroids) {
  nprobe_ = nprobe;
  rise_ = true;
  capacity_ = std::min(8 * nprobe + 64, centroids + 1);
  const size_t lanes = (query.tokens() + kBlock - 1) / kBlock * kBlock;
  offers_.resize(std::max(offers_.size(), lanes * capacity_));
  counts_.assign(lanes, 0);
  best_.assign(lanes * nprobe_, -std::numeric_limits<float>::infinity());
  threshold_at_.clear();
  for (const QueryBlock& block : query.blocks()) {
    float* const threshold = lanes_of(block) + (nprobe_ - 1) * static_cast<size_t>(block.lanes());
    std::fill(threshold + block.tokens, threshold + block.lanes(), kUnused);
    for (int lane = 0; lane < block.lanes(); ++lane) {
      threshold_at_.push_back(static_cast<size_t>(threshold + lane - best_.data()));
    }
  }
}

void ProbeSelector::guess(const ProbeSelector& looked) {
  for (size_t lane = 0; lane < threshold_at_.size(); ++lane) {
    best_[threshold_at_[lane]] = looked.best_[looked.threshold_at_[lane]];
  }
  rise_ = false;
}

bool ProbeSelector::short_of_any(size_t tokens) const {
  return std::any_of(counts_.begin(), counts_.begin() + static_cast<std::ptrdiff_t>(tokens),
                     [this](uint32_t count) { return count < nprobe_; });
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
          rise_,
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
  if (!rise_) best_[threshold_at_[token]] = key_score(kept.back());
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

}  // namespace tartan
