// When enough is scored precisely. colbert_core/reference/stopping.py tells how, and is followed
// operation by operation: both stop at the same passage.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tartan {

constexpr int kStoppingRounds = 2;
constexpr int kChanceReach = 48;    // steps beyond which a chance is 0 or 1
constexpr int kHighestStep = 512;   // above the k-th best
constexpr int64_t kChance = 65536;  // of 1

// What scoring no more is expected to miss; of one query.
class ExpectedMisses {
 public:
  struct Memory {
    std::vector<float> scores;
    std::vector<int64_t> scored, rest;  // passages by step, from -kChanceReach on
  };

  // `missed` is a share of k, above 0; `spread` the deviation expected before anything is scored.
  ExpectedMisses(size_t k, float missed, double spread);

  // Both scores of a passage that has been scored precisely.
  void add(float precise, float coarse);

  // Coarse scores in steps above the k-th best precise score.
  struct Scale {
    double shift = 0, step = 0;
    int of(float coarse) const;
  };

  // Passages to be scored are those of `cut` steps and more. `scored`: the precise scores of all
  // that were added, at least k; `rest_keys`: rank keys of those that are not scored.
  struct Decision {
    Scale scale;
    int cut = kHighestStep + 1;
    bool worth(uint64_t key) const;
  };
  Decision decide(std::span<const float> scored, std::span<const uint64_t> rest_keys,
                  Memory& memory) const;

 private:
  size_t k_;
  int64_t allowed_;
  double spread_;
  double total_ = 0, squares_ = 0;
};

}  // namespace tartan
