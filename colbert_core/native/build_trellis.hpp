// Viterbi's algorithm over the trellis of residual bits, for as many tokens at once as a register
// holds floats: every lane is a token, so nothing is ever shuffled.
//
// colbert_core/reference/trellis.py defines what is computed: a window is the state that it leads
// to, times 2^b, plus the bits that fall out.
#pragma once

#include <vector>

#include "build_leaf.hpp"

namespace tartan {
namespace {

template <size_t kBytes, int kBits>
class Viterbi {
 public:
  static constexpr size_t kTokens = kBytes / sizeof(float);

  // levels: [64]
  Viterbi(size_t dim, const float* levels) : levels_(levels), fallen_(dim * kWords), dim_(dim) {}

  // values: [D][stride], of which the first kTokens are read; windows[i]: [D] of token i.
  void run(const float* values, size_t stride, uint8_t* const* windows) {
    Costs costs[2];
    for (Part& cost : costs[0]) cost = __builtin_inff() - Part{};
    costs[0][0] = Part{};
    for (size_t d = 0; d < dim_; ++d) {
      Part value;
      __builtin_memcpy(&value, values + d * stride, sizeof value);
      step(value, costs[d % 2], costs[(d + 1) % 2], &fallen_[d * kWords]);
    }
    for (size_t i = 0; i < kTokens; ++i) trace(costs[dim_ % 2], i, windows[i]);
  }

 private:
  typedef float Part __attribute__((vector_size(kBytes)));
  typedef int32_t Ints __attribute__((vector_size(kBytes)));
  static constexpr int kStates = kTrellisLevels >> kBits;
  static constexpr int kBranches = 1 << kBits;
  static constexpr int kPerWord = 4;  // states whose fallen bits share a word
  static constexpr int kWords = kStates / kPerWord;
  using Costs = Part[kStates];
  struct Word {
    Ints bits;
  };

  void step(Part value, const Costs& before, Costs& after, Word* fallen) const {
#pragma GCC unroll 8
    for (int word = 0; word < kWords; ++word) {
      Ints bits{};
#pragma GCC unroll 4
      for (int i = 0; i < kPerWord; ++i) {
        const int state = word * kPerWord + i;
        Part best = offer(value, before, state * kBranches);
        Ints chosen{};
#pragma GCC unroll 16
        for (int branch = 1; branch < kBranches; ++branch) {
          const Part offered = offer(value, before, state * kBranches + branch);
          const Ints less = offered < best;
          best = less ? offered : best;
          chosen = less ? (branch << (8 * i)) - Ints{} : chosen;
        }
        after[state] = best;
        bits |= chosen;
      }
      fallen[word].bits = bits;
    }
  }

  Part offer(Part value, const Costs& before, int window) const {
    const Part error = value - levels_[window];
    return before[window % kStates] + error * error;
  }

  void trace(const Costs& costs, size_t lane, uint8_t* windows) const {
    int state = 0;
    for (int i = 1; i < kStates; ++i) {
      if (costs[i][lane] < costs[state][lane]) state = i;
    }
    for (size_t d = dim_; d-- > 0;) {
      const int word = fallen_[d * kWords + state / kPerWord].bits[lane];
      const int window = state * kBranches + ((word >> (8 * (state % kPerWord))) & (kBranches - 1));
      windows[d] = static_cast<uint8_t>(window);
      state = window % kStates;
    }
  }

  const float* levels_;
  std::vector<Word> fallen_;  // [D][kWords]
  size_t dim_;
};

// A dimension's own bits are the highest of its window; eight dimensions fill whole bytes.
template <int kBits>
inline void pack_windows(const uint8_t* windows, size_t dim, uint8_t* out) {
  for (size_t d = 0; d < dim; d += 8, out += kBits) {
    uint32_t string = 0;
    for (size_t i = 0; i < 8; ++i) {
      string |= static_cast<uint32_t>(windows[d + i] >> (kTrellisWindow - kBits)) << (i * kBits);
    }
    for (int i = 0; i < kBits; ++i) out[i] = static_cast<uint8_t>(string >> (8 * i));
  }
}

}  // namespace
}  // namespace tartan
