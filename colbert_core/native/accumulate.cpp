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

}  // namespace

// Asks for the next posting list, and for where the one after it begins. The offsets are not
// checked yet: addresses are computed as integers.
template <class Id>
void Shard::prefetch_list(const Probes& probes, size_t probe, std::span<const Id> postings) const {
  if (probe + 2 >= probes.ids_LP.size()) return;
  const uint64_t* const offsets = arrays_.posting_offsets_C1.data();
  __builtin_prefetch(offsets + probes.ids_LP[probe + 2]);
  const uintptr_t next = reinterpret_cast<uintptr_t>(postings.data()) +
                         static_cast<uintptr_t>(offsets[probes.ids_LP[probe + 1]]) * sizeof(Id);
  __builtin_prefetch(reinterpret_cast<const void*>(next));
}

Range Shard::posting_span(size_t centroid, size_t postings) const {
  const size_t begin = arrays_.posting_offsets_C1[centroid];
  const size_t end = arrays_.posting_offsets_C1[centroid + 1];
  if (begin > end || end > postings) {
    throw CorruptShard("centroid " + std::to_string(centroid) + " spans postings " +
                       std::to_string(begin) + " to " + std::to_string(end) + " of " +
                       std::to_string(postings));
  }
  return {begin, end};
}

template <class Id>
void Shard::walk_postings(std::span<const Id> postings, const Probes& probes, Allowed allowed,
                          Scratch& scratch) const {
  const size_t count = passages();
  const size_t per_token = probes.per_token;
  const uint32_t tokens = static_cast<uint32_t>(probes.ids_LP.size() / per_token);
  const uint32_t first_stamp = scratch.totals.begin(count, tokens);
  auto* const slots = scratch.totals.data();
  const float factor = addend_factor(probes);
  scratch.touched.clear();
  for (uint32_t token = 0; token < tokens; ++token) {
    const uint32_t stamp = first_stamp + token;
    const float last = probes.scores_LP[(token + 1) * per_token - 1];
    for (size_t probe = token * per_token; probe < (token + 1) * per_token; ++probe) {
      const Range span = posting_span(static_cast<size_t>(probes.ids_LP[probe]), postings.size());
      prefetch_list(probes, probe, postings);
      const float gain = std::nearbyint((probes.scores_LP[probe] - last) * factor);
      const uint32_t addend =
          1 + static_cast<uint32_t>(std::min(gain, static_cast<float>(kFinestAddend)));
      for (size_t i = span.begin; i < span.end; ++i) {
        if (i + kAhead < span.end) __builtin_prefetch(slots + postings[i + kAhead], 1);
        const uint32_t pid = postings[i];
        if (pid >= count) {
          throw CorruptShard("centroid " + std::to_string(probes.ids_LP[probe]) +
                             " lists passage " + std::to_string(pid) + " of " +
                             std::to_string(count));
        }
        if (allowed && (*allowed)[pid] == 0) continue;
        auto& slot = slots[pid];
        if (slot.stamp == stamp) continue;
        if (slot.stamp < first_stamp) {
          slot.value = 0;
          scratch.touched.push_back(pid);
        }
        slot.stamp = stamp;
        slot.value += addend;
      }
    }
  }
}

void Shard::accumulate(const Probes& probes, Allowed allowed, Scratch& scratch) const {
  std::visit([&](auto postings) { walk_postings(postings, probes, allowed, scratch); },
             arrays_.postings);
}

size_t Shard::find_candidates(const Probes& given, size_t wanted, size_t candidates,
                              Allowed allowed, Deadline deadline, Scratch& scratch) const {
  Probes probes = given;
  for (;;) {
    deadline.check("candidates");
    accumulate(probes, allowed, scratch);
    if (scratch.touched.size() >= wanted || probes.per_token >= table_.centroids()) break;
    const size_t wider = std::min(4 * probes.per_token, table_.centroids());
    const size_t entries = scratch.query.tokens() * wider;
    scratch.probe_ids.resize(entries);
    scratch.probe_scores.resize(entries);
    table_.probe(scratch.query, wider, 1, scratch.probe_ids.data(), scratch.probe_scores.data());
    probes = {scratch.probe_ids, scratch.probe_scores, wider};
  }
  scratch.keys.clear();
  const auto* const slots = scratch.totals.data();
  for (const uint32_t pid : scratch.touched) {
    scratch.keys.push_back(rank_key(slots[pid].value, pid));
  }
  keep_best_totals(scratch.keys, candidates, scratch.histogram);
  scratch.pids.clear();
  for (const uint64_t key : scratch.keys) scratch.pids.push_back(key_id(key));
  std::sort(scratch.pids.begin(), scratch.pids.end());
  return scratch.touched.size();
}

}  // namespace tartan
