#include "stopping.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "scratch.hpp"
#include "select.hpp"
#include "shard.hpp"

namespace tartan {

namespace {

constexpr double kPriorCount = 5;
constexpr int kStepsPerDeviation = 8;
constexpr size_t kSteps = kChanceReach + kHighestStep + 1;

using Chances = std::array<int64_t, 2 * kChanceReach + 1>;

// Of what lies so many steps above a score, from -kChanceReach on, to be above it.
const Chances& chances() {
  static const Chances table = [] {
    Chances filled{};
    for (int step = -kChanceReach; step <= kChanceReach; ++step) {
      const double deviations = (step + 0.5) / kStepsPerDeviation;
      const double chance = kChance * 0.5 * std::erfc(-deviations * std::sqrt(0.5));
      filled[static_cast<size_t>(step + kChanceReach)] =
          static_cast<int64_t>(std::nearbyint(chance));
    }
    return filled;
  }();
  return table;
}

// Whole steps, those below reach as one below; so is what is not a number.
int whole(double steps) {
  if (!(steps >= -kChanceReach)) return -kChanceReach - 1;
  return static_cast<int>(std::min(std::floor(steps), static_cast<double>(kHighestStep)));
}

// Calls `visit` with the place of each step that may be at `level` or above, and how many of its
// passages are expected there.
template <class Visit>
void for_each_chance(std::span<const int64_t> rest, int level, Visit visit) {
  for (int step = std::max(level - kChanceReach, -kChanceReach); step <= kHighestStep; ++step) {
    const size_t place = static_cast<size_t>(step + kChanceReach);
    if (rest[place] == 0) continue;
    const int above = std::min(step - level, kChanceReach) + kChanceReach;
    if (!visit(step, rest[place] * chances()[static_cast<size_t>(above)])) return;
  }
}

// The lowest step that no more than k are expected to reach.
int find_level(std::span<const int64_t> scored, std::span<const int64_t> rest, size_t k) {
  int low = 0, high = kHighestStep + kChanceReach + 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    int64_t expected = 0;
    for_each_chance(rest, middle, [&](int, int64_t units) {
      expected += units;
      return true;
    });
    const size_t from = std::min(static_cast<size_t>(middle + kChanceReach), scored.size());
    expected += kChance * std::accumulate(scored.begin() + static_cast<std::ptrdiff_t>(from),
                                          scored.end(), int64_t{0});
    if (expected > static_cast<int64_t>(k) * kChance) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The lowest step that has to be scored so that what is below misses no more than allowed.
int find_cut(std::span<const int64_t> rest, int level, int64_t allowed) {
  int cut = kHighestStep + 1;
  int64_t missed = 0;
  for_each_chance(rest, level, [&](int step, int64_t units) {
    missed += units;
    if (missed > allowed) cut = step;
    return missed <= allowed;
  });
  return cut;
}

}  // namespace

ExpectedMisses::ExpectedMisses(size_t k, float missed, double spread)
    : k_(k),
      allowed_(static_cast<int64_t>(
          std::floor(static_cast<double>(missed) * static_cast<double>(k) * kChance))),
      spread_(spread) {}

void ExpectedMisses::add(float precise, float coarse) {
  const double error = static_cast<double>(precise) - static_cast<double>(coarse);
  total_ += error;
  squares_ += error * error;
}

int ExpectedMisses::Scale::of(float coarse) const {
  return whole((static_cast<double>(coarse) + shift) / step);
}

bool ExpectedMisses::Decision::worth(uint64_t key) const { return scale.of(key_score(key)) >= cut; }

ExpectedMisses::Decision ExpectedMisses::decide(std::span<const float> scored,
                                                std::span<const uint64_t> rest_keys,
                                                Memory& memory) const {
  Decision decision;
  const double count = static_cast<double>(scored.size());
  const double mean = total_ / count;
  const double about_mean = std::max(0.0, squares_ - total_ * mean);
  const double known = kPriorCount * (spread_ * spread_) + about_mean;
  const double step = std::sqrt(known / (kPriorCount + count)) / kStepsPerDeviation;
  if (!(step > 0)) return decision;

  memory.scores.assign(scored.begin(), scored.end());
  const auto kth_best = memory.scores.begin() + static_cast<std::ptrdiff_t>(k_) - 1;
  std::nth_element(memory.scores.begin(), kth_best, memory.scores.end(), std::greater<>());
  const double kth = *kth_best;
  decision.scale = {mean - kth, step};

  memory.scored.assign(kSteps, 0);
  memory.rest.assign(kSteps, 0);
  for (const float score : scored) {
    const int steps = whole((static_cast<double>(score) - kth) / step);
    if (steps >= -kChanceReach) ++memory.scored[static_cast<size_t>(steps + kChanceReach)];
  }
  for (const uint64_t key : rest_keys) {
    const int steps = decision.scale.of(key_score(key));
    if (steps >= -kChanceReach) ++memory.rest[static_cast<size_t>(steps + kChanceReach)];
  }
  decision.cut = find_cut(memory.rest, find_level(memory.scored, memory.rest, k_), allowed_);
  return decision;
}

// Of the candidates, whose coarse scores are in scratch.keys, scores the best k and then what it
// takes; leaves those that were scored in scratch.pids and scratch.scores.
void Shard::score_enough(size_t k, const Budget& budget, Deadline deadline,
                         Scratch& scratch) const {
  std::vector<uint64_t>& keys = scratch.keys;
  const double spread = static_cast<double>(budget.spread) * scratch.query.length();
  ExpectedMisses misses(k, budget.missed, spread);
  scratch.pids.resize(keys.size());
  scratch.scores.resize(keys.size());
  const auto at = [&](size_t place) { return keys.begin() + static_cast<std::ptrdiff_t>(place); };
  std::nth_element(keys.begin(), at(k - 1), keys.end(), std::greater<>());
  size_t scored = 0, fresh = k;
  for (int rounds_left = kStoppingRounds;; --rounds_left) {
    const auto by_pid = [](uint64_t a, uint64_t b) { return key_id(a) < key_id(b); };
    std::sort(at(scored), at(fresh), by_pid);
    for (size_t i = scored; i < fresh; ++i) scratch.pids[i] = key_id(keys[i]);
    const auto some = std::span(scratch.pids).subspan(scored, fresh - scored);
    precise(some, deadline, scratch.scores.data() + scored, scratch);
    for (; scored < fresh; ++scored) misses.add(scratch.scores[scored], key_score(keys[scored]));
    if (rounds_left == 0 || scored == keys.size()) break;
    const auto decision = misses.decide(std::span(scratch.scores).first(scored),
                                        std::span(keys).subspan(scored), scratch.misses);
    const auto worth = [&](uint64_t key) { return decision.worth(key); };
    fresh = static_cast<size_t>(std::partition(at(scored), keys.end(), worth) - keys.begin());
    if (fresh == scored) break;
  }
  scratch.pids.resize(scored);
  scratch.scores.resize(scored);
}

}  // namespace tartan
