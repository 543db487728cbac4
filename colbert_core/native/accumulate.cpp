// Candidates: what the probed centroids' postings say about every passage, in one pass.
//
// The first time a query token meets a passage, through its i-th probe, the passage gains
// 1 + round((s_i − s_last) · 2^20 / range): see `Shard._accumulate` in reference/shard.py.
#include <algorithm>
#include <cmath>

#include "scratch.hpp"
#include "select.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

constexpr size_t kAhead = 24;  // postings between asking for a slot and using it
constexpr int kHistogramBits = 12;
constexpr float kLargestTotal = 2147483648.0f;

float addend_factor(const Probes& probes) {
  float widest = 0;
  for (size_t at = 0; at < probes.scores_LP.size(); at += probes.per_token) {
    widest = std::max(widest, probes.scores_LP[at] - probes.scores_LP[at + probes.per_token - 1]);
  }
  return widest >= kSmallestRange ? static_cast<float>(kFinestAddend) / widest : 0.0f;
}

// Keeps the `count` largest keys. A histogram of the leading bits of the totals finds the bucket in
// which the cut lies; only that bucket is ordered.
void keep_best_totals(std::vector<uint64_t>& keys, size_t count, std::vector<uint32_t>& histogram) {
  if (keys.size() <= 4 * count + 1024) return keep_best(keys, count);
  uint64_t largest = 0;
  for (const uint64_t key : keys) largest = std::max(largest, key);
  const int width = 64 - std::countl_zero(largest);
  const int shift = std::max(32, width - kHistogramBits);
  histogram.assign((largest >> shift) + 1, 0);
  for (const uint64_t key : keys) ++histogram[key >> shift];
  size_t bucket = histogram.size() - 1;
  for (size_t above = histogram[bucket]; above < count; above += histogram[--bucket]) {
  }
  const uint64_t least = static_cast<uint64_t>(bucket) << shift;
  size_t kept = 0;
  for (const uint64_t key : keys) {
    keys[kept] = key;
    kept += key >= least;
  }
  keys.resize(kept);
  keep_best(keys, count);
}

// Drops what is more than `slack` below the `wanted`-th largest total. NaN, as a slack, drops
// nothing.
void drop_far_behind(std::vector<uint64_t>& keys, size_t wanted, float slack) {
  if (keys.size() <= wanted || !(slack < kLargestTotal)) return;
  const auto last = keys.begin() + static_cast<std::ptrdiff_t>(wanted) - 1;
  std::nth_element(keys.begin(), last, keys.end(), std::greater<>());
  const uint64_t total = *last >> 32;
  const uint64_t units = static_cast<uint64_t>(slack);
  const uint64_t least = (total > units ? total - units : 0) << 32;
  std::erase_if(keys, [least](uint64_t key) { return key < least; });
}

}  // namespace

// Asks for the next posting list, and for where the one after it begins.
void Shard::prefetch_lists(const Probes& probes, size_t probe) const {
  if (probe + 2 >= probes.ids_LP.size()) return;
  arrays_.postings.prefetch_offset(static_cast<size_t>(probes.ids_LP[probe + 2]));
  arrays_.postings.prefetch_list(static_cast<size_t>(probes.ids_LP[probe + 1]));
}

// Counts `addend` for every passage of a list that the query token of `stamp` has not met before.
// Without branches: whether a passage was met is not to be foreseen.
void Shard::walk_list(size_t centroid, uint32_t addend, uint32_t first_stamp, uint32_t stamp,
                      Allowed allowed, Scratch& scratch) const {
  uint32_t* const pids = scratch.postings.data();
  size_t count = arrays_.postings.decode(centroid, pids);
  if (allowed) {
    const auto excluded = [&](uint32_t pid) { return (*allowed)[pid] == 0; };
    count = static_cast<size_t>(std::remove_if(pids, pids + count, excluded) - pids);
  }
  auto* const slots = scratch.totals.data();
  uint32_t* const touched = scratch.touched.data();
  size_t touched_count = scratch.touched_count;
  for (size_t i = 0; i < count; ++i) {
    __builtin_prefetch(slots + pids[i + kAhead], 1);  // past the end: of an earlier list
    const uint32_t pid = pids[i];
    const auto slot = slots[pid];
    const bool fresh = slot.stamp < first_stamp;
    touched[touched_count] = pid;
    touched_count += fresh;
    const uint32_t before = fresh ? 0 : slot.value;
    slots[pid] = {stamp, before + (slot.stamp == stamp ? 0 : addend)};
  }
  scratch.touched_count = touched_count;
}

void Shard::accumulate(const Probes& probes, Allowed allowed, Scratch& scratch) const {
  const size_t per_token = probes.per_token;
  const uint32_t tokens = static_cast<uint32_t>(probes.ids_LP.size() / per_token);
  const uint32_t first_stamp = scratch.totals.begin(passages(), tokens);
  const float factor = addend_factor(probes);
  scratch.postings.grow(passages() + kAhead);
  scratch.touched.grow(passages() + 1);
  scratch.touched_count = 0;
  for (uint32_t token = 0; token < tokens; ++token) {
    const float last = probes.scores_LP[(token + 1) * per_token - 1];
    for (size_t probe = token * per_token; probe < (token + 1) * per_token; ++probe) {
      prefetch_lists(probes, probe);
      const float gain = std::nearbyint((probes.scores_LP[probe] - last) * factor);
      const uint32_t addend =
          1 + static_cast<uint32_t>(std::min(gain, static_cast<float>(kFinestAddend)));
      walk_list(static_cast<size_t>(probes.ids_LP[probe]), addend, first_stamp, first_stamp + token,
                allowed, scratch);
    }
  }
}

size_t Shard::find_candidates(const Probes& given, size_t wanted, size_t candidates, float margin,
                              Allowed allowed, Deadline deadline, Scratch& scratch) const {
  Probes probes = given;
  for (;;) {
    deadline.check("candidates");
    accumulate(probes, allowed, scratch);
    if (scratch.touched_count >= wanted || probes.per_token >= table_.centroids()) break;
    const size_t wider = std::min(4 * probes.per_token, table_.centroids());
    const size_t entries = scratch.query.tokens() * wider;
    scratch.probe_ids.resize(entries);
    scratch.probe_scores.resize(entries);
    table_.probe(scratch.query, wider, 1, scratch.probe_ids.data(), scratch.probe_scores.data());
    probes = {scratch.probe_ids, scratch.probe_scores, wider};
  }
  scratch.keys.clear();
  const auto* const slots = scratch.totals.data();
  for (size_t i = 0; i < scratch.touched_count; ++i) {
    const uint32_t pid = scratch.touched.data()[i];
    scratch.keys.push_back(rank_key(slots[pid].value, pid));
  }
  keep_best_totals(scratch.keys, candidates, scratch.histogram);
  const float factor = addend_factor(probes);
  const float root = std::sqrt(static_cast<float>(scratch.query.tokens()));
  if (factor > 0) drop_far_behind(scratch.keys, wanted, margin * root * factor);
  scratch.pids.clear();
  for (const uint64_t key : scratch.keys) scratch.pids.push_back(key_id(key));
  std::sort(scratch.pids.begin(), scratch.pids.end());
  return scratch.touched_count;
}

Hits Shard::approximate(std::span<const float> Q_LD, const Probes& probes, Allowed allowed) const {
  check_allowed(allowed);
  auto scratch = scratches_.borrow();
  scratch->query.pack(Q_LD, dim());
  check_probes(probes, scratch->query.tokens(), table_.centroids());
  accumulate(probes, allowed, *scratch);
  const uint32_t* const touched = scratch->touched.data();
  Hits hits;
  hits.touched = scratch->touched_count;
  hits.pids.assign(touched, touched + hits.touched);
  std::sort(hits.pids.begin(), hits.pids.end());
  const float factor = addend_factor(probes);
  const auto* const slots = scratch->totals.data();
  for (const int64_t pid : hits.pids) {
    const float total = static_cast<float>(slots[pid].value);
    hits.scores.push_back(factor > 0 ? total / factor : 0.0f);
  }
  return hits;
}

}  // namespace tartan
