#include "shard.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "scratch.hpp"
#include "select.hpp"

namespace tartan {

namespace {

void require_magnitudes(const char* name, std::span<const float> values) {
  for (const float value : values) {
    require(std::fabs(value) <= kMaxMagnitude, std::string(name) + " must lie within ±1e6");
  }
}

}  // namespace

void check_probes(const Probes& probes, size_t tokens, size_t centroids) {
  require(probes.per_token >= 1 && probes.ids_LP.size() == tokens * probes.per_token &&
              probes.scores_LP.size() == probes.ids_LP.size(),
          "probe arrays must have shape (" + std::to_string(tokens) + ", P) with P at least 1");
  for (size_t i = 0; i < probes.ids_LP.size(); ++i) {
    require(probes.ids_LP[i] >= 0 && static_cast<size_t>(probes.ids_LP[i]) < centroids,
            "probe_ids_LP must lie below the number of centroids, " + std::to_string(centroids));
    const bool first = i % probes.per_token == 0;
    require(std::fabs(probes.scores_LP[i]) <= kMaxProbeScore &&
                (first || probes.scores_LP[i - 1] >= probes.scores_LP[i]),
            "probe_scores_LP must be finite and descending per query token");
  }
}

void Deadline::check(const char* stage) const {
  if (!(seconds_ > 0)) return;
  const std::chrono::duration<double> now = std::chrono::steady_clock::now().time_since_epoch();
  if (now.count() >= seconds_) throw DeadlinePassed(stage);
}

Shard::Shard(const CentroidTable& table, const ShardArrays& arrays)
    : table_(table),
      arrays_(arrays),
      weight_(256),
      levels_(kTrellisLevels),
      levels_i8_(kTrellisLevels),
      trellis_(arrays.levels.size() == kTrellisLevels) {
  const int bits = arrays.bits;
  require(bits >= 1 && bits <= 4, "bits " + std::to_string(bits) + " must be 1, 2, 3 or 4");
  const size_t tokens = arrays.codes_T.size();
  require_length("residuals_TB", arrays.residuals.size(),
                 tokens * dim() * static_cast<size_t>(bits) / 8);
  require_length("scales_T", arrays.scales_T.size(), tokens);
  const uint64_t first = arrays.offsets_N1[0], last = arrays.offsets_N1[passages()];
  require(first == 0 && last == tokens, "offsets runs from " + std::to_string(first) + " to " +
                                            std::to_string(last) + ", expected 0 to " +
                                            std::to_string(tokens));
  if (!trellis_) require_length("levels", arrays.levels.size(), size_t{1} << bits);
  require_length("alpha", arrays.alpha.size(), 256);
  require_length("beta", arrays.beta.size(), 256);
  require_magnitudes("levels", arrays.levels);
  require_magnitudes("alpha", arrays.alpha);
  require_magnitudes("beta", arrays.beta);
  if (has_contexts()) {
    require_length("contexts_NX", arrays.contexts.size(),
                   passages() * (token_bytes() + kContextScaleBytes));
    require(trellis_ && !arrays.normalize,
            "contexts need levels of a trellis and vectors that are not normalised");
  }
  if (!arrays.centroids_f32.empty()) {
    require_length("centroids_f32", arrays.centroids_f32.size(), table.centroids() * dim());
  }
  float largest = 0;
  for (const float level : arrays.levels) largest = std::max(largest, std::fabs(level));
  float step = largest / 127.0f;
  if (step < std::numeric_limits<float>::min()) step = 0;
  for (size_t i = 0; i < kTrellisLevels; ++i) {
    levels_[i] = arrays.levels[i % arrays.levels.size()];
    const float rounded = step == 0 ? 0.0f : std::nearbyint(levels_[i] / step);
    levels_i8_[i] = static_cast<int8_t>(std::clamp(rounded, -127.0f, 127.0f));
  }
  level_step_ = step;
  for (size_t s = 0; s < 256; ++s) weight_[s] = arrays.beta[s] * step;
  on_grid_ = trellis_ && arrays.centroids_f32.empty() && !arrays.normalize;
  for (size_t i = 0; i < kTrellisLevels; ++i) {
    const float rounded = static_cast<float>(levels_i8_[i]) * step;
    on_grid_ = on_grid_ && std::fabs(levels_[i] - rounded) <= kGridTolerance * largest;
  }
}

Range Shard::passage_span(size_t pid) const {
  const size_t begin = arrays_.offsets_N1[pid];
  const size_t end = arrays_.offsets_N1[pid + 1];
  if (begin >= end || end > tokens()) {
    throw CorruptShard("passage " + std::to_string(pid) + " spans tokens " + std::to_string(begin) +
                       " to " + std::to_string(end) + " of " + std::to_string(tokens()));
  }
  return {begin, end};
}

size_t Shard::passage_of(size_t token) const {
  size_t low = 0, high = passages();  // the last passage that begins at the token or before
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    (arrays_.offsets_N1[middle] <= token ? low : high) = middle;
  }
  return low;
}

uint32_t Shard::code(size_t token) const {
  const uint32_t code = static_cast<uint32_t>(arrays_.codes_T[token]);
  if (code >= table_.centroids()) {
    throw CorruptShard("token " + std::to_string(token) + " has centroid " + std::to_string(code) +
                       " of " + std::to_string(table_.centroids()));
  }
  return code;
}

void Shard::check_pid(int64_t pid) const {
  require(pid >= 0 && static_cast<size_t>(pid) < passages(),
          "passage " + std::to_string(pid) + " is not one of " + std::to_string(passages()));
}

void Shard::check_allowed(const Allowed& allowed) const {
  if (allowed) require_length("allowed_N", allowed->size(), passages());
}

void Shard::all_passages(const Allowed& allowed, std::vector<uint32_t>& pids) const {
  pids.clear();
  for (size_t pid = 0; pid < passages(); ++pid) {
    if (!allowed || (*allowed)[pid] != 0) pids.push_back(static_cast<uint32_t>(pid));
  }
}

// Fills scratch.keys from scratch.pids and scratch.scores.
void Shard::rank_keys(Scratch& scratch) const {
  scratch.keys.clear();
  for (size_t i = 0; i < scratch.pids.size(); ++i) {
    scratch.keys.push_back(rank_key(scratch.scores[i], scratch.pids[i]));
  }
}

// Fills scratch.pids, ascending, from scratch.keys.
void Shard::take_keys(Scratch& scratch) const {
  scratch.pids.clear();
  for (const uint64_t key : scratch.keys) scratch.pids.push_back(key_id(key));
  std::sort(scratch.pids.begin(), scratch.pids.end());
}

// The best k of scratch.pids by scratch.scores.
Hits Shard::rank(size_t k, Scratch& scratch) const {
  rank_keys(scratch);
  keep_best(scratch.keys, k);
  sort_best_first(scratch.keys);
  Hits hits;
  hits.pids.reserve(scratch.keys.size());
  hits.scores.reserve(scratch.keys.size());
  for (const uint64_t key : scratch.keys) {
    hits.pids.push_back(key_id(key));
    hits.scores.push_back(key_score(key));
  }
  return hits;
}

Hits Shard::search(std::span<const float> Q_LD, const Probes& probes, size_t k,
                   const Budget& budget, Allowed allowed, Deadline deadline) const {
  check_allowed(allowed);
  auto scratch = table_.scratches().borrow();
  pack_query(Q_LD, *scratch);
  check_probes(probes, scratch->query.tokens(), table_.centroids());
  const size_t live = allowed ? static_cast<size_t>(std::count_if(allowed->begin(), allowed->end(),
                                                                  [](uint8_t a) { return a; }))
                              : passages();
  if (live == 0) return {};
  size_t touched = live;
  const bool all = live <= (std::isinf(budget.margin) ? std::max(budget.candidates, k) : k);
  if (all) {
    all_passages(allowed, scratch->pids);
  } else {
    touched = find_candidates(probes, std::min(k, live), budget, allowed, deadline, *scratch);
  }
  size_t scored = 0;
  if (budget.scored == 0) {
    if (all || scratch->pids.size() > k) interact(deadline, *scratch);
  } else {
    const size_t most = std::max(budget.scored, k);
    if (budget.missed > 0 && scratch->pids.size() > k) {
      keep_by_interaction(most, deadline, *scratch);
      score_enough(k, budget, deadline, *scratch);
    } else {
      if (scratch->pids.size() > most) {
        keep_by_interaction(most, deadline, *scratch);
        take_keys(*scratch);
      }
      scratch->scores.resize(scratch->pids.size());
      precise(scratch->pids, deadline, scratch->scores.data(), *scratch);
    }
    scored = scratch->pids.size();
  }
  Hits hits = rank(k, *scratch);
  hits.touched = touched;
  hits.scored = scored;
  return hits;
}

void Shard::age_scratch() const {
  auto scratch = table_.scratches().borrow();
  scratch->totals.age(std::numeric_limits<uint32_t>::max() - 1);
  scratch->row_of.age(std::numeric_limits<uint32_t>::max() - 1);
}

Hits Shard::exhaustive(std::span<const float> Q_LD, size_t k, Allowed allowed,
                       Deadline deadline) const {
  require(k >= 1, "k 0 must be at least 1");
  check_allowed(allowed);
  auto scratch = table_.scratches().borrow();
  pack_query(Q_LD, *scratch);
  all_passages(allowed, scratch->pids);
  scratch->scores.resize(scratch->pids.size());
  precise(scratch->pids, deadline, scratch->scores.data(), *scratch);
  Hits hits = rank(k, *scratch);
  hits.touched = hits.scored = scratch->pids.size();
  return hits;
}

void Shard::score(std::span<const float> Q_LD, std::span<const int64_t> pids, float* scores) const {
  for (const int64_t pid : pids) check_pid(pid);
  auto scratch = table_.scratches().borrow();
  pack_query(Q_LD, *scratch);
  scratch->pids.assign(pids.begin(), pids.end());
  precise(scratch->pids, Deadline(0), scores, *scratch);
}

void Shard::match(std::span<const float> Q_LD, int64_t pid, int32_t* best, float* scores) const {
  check_pid(pid);
  auto scratch = table_.scratches().borrow();
  pack_query(Q_LD, *scratch);
  best_of_passage<true>(static_cast<uint32_t>(pid), *scratch);
  std::copy(scratch->best_token.begin(), scratch->best_token.end(), best);
  std::copy(scratch->best.begin(), scratch->best.end(), scores);
}

void Shard::check_tokens(int64_t first_token, int64_t count) const {
  require(first_token >= 0 && count >= 0 && static_cast<size_t>(first_token) <= tokens() &&
              static_cast<size_t>(count) <= tokens() - static_cast<size_t>(first_token),
          "tokens " + std::to_string(first_token) + " and " + std::to_string(count) +
              " more lie outside the shard's " + std::to_string(tokens()));
}

void Shard::decode(int64_t first_token, int64_t count, float* vectors) const {
  check_tokens(first_token, count);
  auto scratch = table_.scratches().borrow();
  const size_t end = static_cast<size_t>(first_token) + static_cast<size_t>(count);
  for (size_t begin = static_cast<size_t>(first_token); begin < end;) {
    const size_t pid = passage_of(begin);
    const size_t decoded = decode_tile(begin, std::min(end, passage_span(pid).end), *scratch);
    add_context(pid, decoded, scratch->vectors.data());
    for (size_t t = 0; t < decoded; ++t) {
      const float* const vector = scratch->vectors.data() + t * vector_stride(dim());
      vectors = std::copy(vector, vector + dim(), vectors);
    }
    begin += decoded;
  }
}

}  // namespace tartan
