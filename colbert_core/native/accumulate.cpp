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

// Leaves the keys of the `count` best touched passages in scratch.keys. A histogram of the totals'
// leading bits finds where the cut lies; what is above is ordered no further than to make the cut.
void keep_best_totals(Scratch& scratch, size_t count) {
  const size_t touched = scratch.touched_count;
  const uint64_t largest = uint64_t{scratch.query.tokens()} * (kFinestAddend + 1);
  const int shift = 32 + std::max(0, static_cast<int>(std::bit_width(largest)) - kHistogramBits);
  scratch.histogram.assign((rank_key(static_cast<uint32_t>(largest), 0) >> shift) + 1, 0);
  const auto* const slots = scratch.totals.data();
  const uint32_t* const pids = scratch.touched.data();
  uint64_t* const keys = scratch.touched_keys.grow(touched);
  uint32_t* const histogram = scratch.histogram.data();
  for (size_t i = 0; i < touched; ++i) {
    const uint64_t key = rank_key(slots[pids[i]].value, pids[i]);
    keys[i] = key;
    ++histogram[key >> shift];
  }
  size_t bucket = scratch.histogram.size();
  size_t above = 0;
  while (above < std::min(count, touched)) above += histogram[--bucket];
  const uint64_t least = static_cast<uint64_t>(bucket) << shift;
  scratch.keys.resize(above + 1);
  uint64_t* kept = scratch.keys.data();
  for (size_t i = 0; i < touched; ++i) {
    *kept = keys[i];
    kept += keys[i] >= least;
  }
  scratch.keys.resize(above);
  keep_best(scratch.keys, count);
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

// Asks for the posting list after next, and for where later ones begin.
void Shard::prefetch_lists(const Probes& probes, size_t probe) const {
  const auto centroid = [&](size_t ahead) {
    return static_cast<size_t>(probes.ids_LP[std::min(probe + ahead, probes.ids_LP.size() - 1)]);
  };
  arrays_.postings.prefetch_offset(centroid(8));
  arrays_.postings.prefetch_list(centroid(2));
}

// Counts `addend` for every passage of a list, `count` of them in scratch.postings, that the query
// token of `stamp` has not met before. Without branches: whether one was met is not to be foreseen.
void Shard::walk_list(size_t count, uint32_t addend, uint32_t first_stamp, uint32_t stamp,
                      Allowed allowed, Scratch& scratch) const {
  uint32_t* const pids = scratch.postings.data();
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

// Passages are counted from the window's first.
void Shard::accumulate(const Probes& probes, Allowed allowed, Range window,
                       Scratch& scratch) const {
  const PostingLists& lists = arrays_.postings;
  const size_t passages_met = window.end - window.begin, per_token = probes.per_token;
  const bool whole = passages_met == passages();
  const uint32_t tokens = static_cast<uint32_t>(probes.ids_LP.size() / per_token);
  const uint32_t first_stamp = scratch.totals.begin(passages_met, tokens);
  const float factor = addend_factor(probes);
  const size_t room = whole ? passages() + PostingLists::kRoom : lists.room_within(passages_met);
  uint32_t* const postings = scratch.postings.grow(room + kAhead);
  scratch.touched.grow(passages_met + 1);
  scratch.touched_count = 0;
  for (uint32_t token = 0; token < tokens; ++token) {
    const float last = probes.scores_LP[(token + 1) * per_token - 1];
    for (size_t probe = token * per_token; probe < (token + 1) * per_token; ++probe) {
      prefetch_lists(probes, probe);
      const float gain = std::nearbyint((probes.scores_LP[probe] - last) * factor);
      const uint32_t addend =
          1 + static_cast<uint32_t>(std::min(gain, static_cast<float>(kFinestAddend)));
      const size_t centroid = static_cast<size_t>(probes.ids_LP[probe]);
      const size_t count = whole
                               ? lists.decode(centroid, postings)
                               : lists.decode_within(centroid, window.begin, window.end, postings);
      walk_list(count, addend, first_stamp, first_stamp + token, allowed, scratch);
    }
  }
}

// Fills scratch.scores with those of scratch.pids: what the last probes of all tokens would give,
// and the gain above.
void Shard::estimate_scores(const Probes& probes, Scratch& scratch) const {
  const float factor = addend_factor(probes);
  float base = 0;
  for (size_t at = probes.per_token; at <= probes.scores_LP.size(); at += probes.per_token) {
    base += probes.scores_LP[at - 1];
  }
  const auto* const slots = scratch.totals.data();
  scratch.scores.clear();
  for (const uint32_t pid : scratch.pids) {
    const float total = static_cast<float>(slots[pid].value);
    scratch.scores.push_back(base + (factor > 0 ? total / factor : 0.0f));
  }
}

// Leaves the best candidates in scratch.pids, ascending; returns how many passages were touched.
size_t Shard::find_candidates(const Probes& given, size_t wanted, const Budget& budget,
                              Allowed allowed, Deadline deadline, Scratch& scratch) const {
  Probes probes = given;
  for (;;) {
    deadline.check("candidates");
    accumulate(probes, allowed, {0, passages()}, scratch);
    if (scratch.touched_count >= wanted || probes.per_token >= table_.centroids()) break;
    const size_t wider = std::min(4 * probes.per_token, table_.centroids());
    const size_t entries = scratch.query.tokens() * wider;
    scratch.probe_ids.resize(entries);
    scratch.probe_scores.resize(entries);
    table_.probe(scratch.query, wider, 1, false, scratch.probe_ids.data(),
                 scratch.probe_scores.data());
    probes = {scratch.probe_ids, scratch.probe_scores, wider};
  }
  keep_best_totals(scratch, std::max(budget.candidates, wanted));
  const float factor = addend_factor(probes);
  const float slack = budget.margin * scratch.query.length() * factor;
  if (factor > 0) drop_far_behind(scratch.keys, wanted, slack);
  take_keys(scratch);
  if (budget.scored == 0) estimate_scores(probes, scratch);
  return scratch.touched_count;
}

Hits Shard::approximate(std::span<const float> Q_LD, const Probes& probes, Allowed allowed,
                        Range window) const {
  require(window.begin <= window.end && window.end <= passages(),
          "passages " + std::to_string(window.begin) + " to " + std::to_string(window.end) +
              " are not a window of " + std::to_string(passages()));
  if (allowed) require_length("allowed_N", allowed->size(), window.end - window.begin);
  auto scratch = table_.scratches().borrow();
  scratch->query.pack(Q_LD, dim());
  check_probes(probes, scratch->query.tokens(), table_.centroids());
  accumulate(probes, allowed, window, *scratch);
  scratch->pids.assign(scratch->touched.data(), scratch->touched.data() + scratch->touched_count);
  std::sort(scratch->pids.begin(), scratch->pids.end());
  estimate_scores(probes, *scratch);
  Hits hits;
  hits.touched = scratch->touched_count;
  hits.pids.reserve(scratch->pids.size());
  for (const uint32_t pid : scratch->pids) {
    hits.pids.push_back(static_cast<int64_t>(window.begin + pid));
  }
  hits.scores = scratch->scores;
  return hits;
}

}  // namespace tartan
