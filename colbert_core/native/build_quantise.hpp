// What a codec stores of tokens, for a path whose registers have kBytes.
//
// Included by the sources of single paths only. colbert_core/reference/residuals.py defines the
// bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "build_int8.hpp"
#include "build_lanes.hpp"
#include "build_trellis.hpp"

namespace tartan {
namespace {

// The level that each value falls to, and which one: as many cutoffs as lie below the value.
template <size_t kBytes, int kBits>
struct Cells {
  using F = Floats<kBytes>;
  static constexpr size_t kCount = size_t{1} << kBits;
  float levels[kCount];
  float cutoffs[kCount];

  Cells(const float* from_levels, const float* from_cutoffs) {
    std::copy_n(from_levels, kCount, levels);
    std::copy_n(from_cutoffs, kCount - 1, cutoffs);
  }

  F level_of(const F& values) const {
    F found;
    for (size_t i = 0; i < F::kParts; ++i) {
      typename F::Part level = levels[0] - typename F::Part{};
#pragma GCC unroll 16
      for (size_t j = 0; j + 1 < kCount; ++j) {
        level = values.parts[i] > cutoffs[j] ? levels[j + 1] - typename F::Part{} : level;
      }
      found.parts[i] = level;
    }
    return found;
  }

  void index_of(const F& values, uint8_t* indices) const {
    for (size_t i = 0; i < F::kParts; ++i) {
      typename F::Ints count{};
#pragma GCC unroll 16
      for (size_t j = 0; j + 1 < kCount; ++j) count -= values.parts[i] > cutoffs[j];
      const auto bytes = __builtin_convertvector(count, typename F::Bytes);
      __builtin_memcpy(indices + i * F::kPartLanes, &bytes, sizeof bytes);
    }
  }
};

// A plane of kWidth bits: byte i holds in field j the value of dimension i + j·n.
template <int kWidth>
inline void pack_plane(const uint8_t* indices, size_t dim, int shift, uint8_t* out) {
  constexpr int kMask = (1 << kWidth) - 1;
  const size_t n = dim * kWidth / 8;
  for (size_t i = 0; i < n; ++i) {
    int byte = 0;
    for (size_t j = 0; j < 8 / kWidth; ++j) {
      byte |= ((indices[i + j * n] >> shift) & kMask) << (j * kWidth);
    }
    out[i] = static_cast<uint8_t>(byte);
  }
}

template <int kBits>
inline void pack_planes(const uint8_t* indices, size_t dim, uint8_t* out) {
  if constexpr (kBits == 3) {
    pack_plane<2>(indices, dim, 0, out);
    pack_plane<1>(indices, dim, 2, out + dim / 4);
  } else {
    pack_plane<kBits>(indices, dim, 0, out);
  }
}

// The nearest of ascending steps.
template <size_t kCount>
inline uint8_t nearest_step(const float* steps, float value) {
  uint8_t below = 0;
  for (size_t i = 0; i + 1 < kCount; ++i) below += (steps[i + 1] + steps[i]) / 2.0f < value;
  return below;
}

// A token, its centroid and its residual, zero beyond the last dimension up to whole lanes.
struct Padded {
  alignas(64) float centroid[kMaxDim + kLanes];
  alignas(64) float residual[kMaxDim + kLanes];
  alignas(64) float chosen[kMaxDim + kLanes];
  uint8_t indices[kMaxDim + kLanes];
  size_t dim = 0, lanes = 0;

  void start(size_t dimensions) {
    dim = dimensions;
    lanes = whole_lanes(dimensions);
    std::fill(centroid + dim, centroid + lanes, 0.0f);
    std::fill(residual + dim, residual + lanes, 0.0f);
  }
  void take(const QuantiseTokens& tokens, size_t t) {
    const float* const row = tokens.centroids + static_cast<size_t>(tokens.codes[t]) * dim;
    const float* const vector = tokens.vectors + t * dim;
    for (size_t d = 0; d < dim; ++d) {
      centroid[d] = row[d];
      residual[d] = vector[d] - row[d];
    }
  }
  // No level stands beyond the last dimension.
  void clear_tail() { std::fill(chosen + dim, chosen + lanes, 0.0f); }
};

// The norm of centroid + scale · addend, at least 1e-6.
template <class F>
inline float norm_of_sum(const Padded& token, float scale, const float* addend) {
  F squares = F::splat(0);
  for (size_t d = 0; d < token.lanes; d += kLanes) {
    const F sum = F::load(token.centroid + d) + F::splat(scale) * F::load(addend + d);
    squares = squares + sum * sum;
  }
  return std::max(std::sqrt(squares.sum()), 1e-6f);
}

template <class F>
inline float decoded_norm(const Padded& token, float scale) {
  return norm_of_sum<F>(token, scale, token.chosen);
}

// Tokens side by side, as the trellis wants them, and their levels along it.
template <size_t kBytes, int kBits>
class Group {
 public:
  using F = Floats<kBytes>;
  Padded token[kLanes];
  float scales[kLanes];

  Group(size_t dim, const float* levels) : levels_(levels), viterbi_(dim, levels) {
    for (size_t i = 0; i < kLanes; ++i) token[i].start(dim);
  }

  // Windows of the residuals, each divided by its scale.
  void choose() {
    const size_t dim = token[0].dim;
    for (size_t i = 0; i < kLanes; ++i) {
      const float inverse = 1.0f / scales[i];
      for (size_t d = 0; d < dim; ++d) values_[d * kLanes + i] = token[i].residual[d] * inverse;
    }
    for (size_t first = 0; first < kLanes; first += viterbi_.kTokens) {
      uint8_t* windows[viterbi_.kTokens];
      for (size_t i = 0; i < viterbi_.kTokens; ++i) windows[i] = token[first + i].indices;
      viterbi_.run(values_ + first, kLanes, windows);
    }
  }

  // The levels of the windows, and the scale of least squared error with them.
  void fit() {
    for (size_t i = 0; i < kLanes; ++i) {
      const Padded& one = look_up(i);
      F products = F::splat(0), lengths = F::splat(0);
      for (size_t d = 0; d < one.lanes; d += kLanes) {
        const F chosen = F::load(one.chosen + d);
        products = products + F::load(one.residual + d) * chosen;
        lengths = lengths + chosen * chosen;
      }
      scales[i] = std::max(products.sum() / std::max(lengths.sum(), 1e-12f), 1e-6f);
    }
  }

  // What makes the decoded vector as long as the vector is.
  float gain(size_t i) {
    const Padded& one = look_up(i);
    return norm_of_sum<F>(one, 1.0f, one.residual) / decoded_norm<F>(one, scales[i]);
  }

 private:
  const Padded& look_up(size_t i) {
    Padded& one = token[i];
    for (size_t d = 0; d < one.dim; ++d) one.chosen[d] = levels_[one.indices[d]];
    one.clear_tail();
    return one;
  }

  const float* levels_;
  Viterbi<kBytes, kBits> viterbi_;
  alignas(64) float values_[kMaxDim * kLanes];  // [D][kLanes]
};

template <class F>
inline float root_mean_square(const Padded& token) {
  F squares = F::splat(0);
  for (size_t d = 0; d < token.lanes; d += kLanes) {
    const F residual = F::load(token.residual + d);
    squares = squares + residual * residual;
  }
  return std::max(std::sqrt(squares.sum() / static_cast<float>(token.dim)), 1e-6f);
}

template <size_t kBytes, int kBits>
void quantise_tartan_bits(const QuantiseTokens& tokens, const TartanTables& tables) {
  using F = Floats<kBytes>;
  const size_t dim = tokens.dim;
  const auto group = std::make_unique<Group<kBytes, kBits>>(dim, tables.levels);
  for (size_t first = 0; first < tokens.count; first += kLanes) {
    const size_t count = std::min(kLanes, tokens.count - first);
    for (size_t i = 0; i < kLanes; ++i) {  // the last one fills up
      group->token[i].take(tokens, first + std::min(i, count - 1));
      group->scales[i] = root_mean_square<F>(group->token[i]);
    }
    group->choose();
    group->fit();
    uint8_t steps[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {
      steps[i] = nearest_step<kRatios>(tables.ratios, group->scales[i]);
      group->scales[i] = std::max(tables.ratios[steps[i]], 1e-6f);
    }
    group->choose();
    for (size_t i = 0; i < count; ++i) {
      const size_t gain = nearest_step<kGains>(tables.gains, group->gain(i));
      tokens.scales[first + i] = static_cast<uint8_t>(steps[i] + kRatios * gain);
      pack_windows<kBits>(group->token[i].indices, dim,
                          tokens.packed + (first + i) * dim * kBits / 8);
    }
  }
}

template <size_t kBytes, int kBits>
void best_bits_of(const TrellisValues& trellis) {
  const size_t dim = trellis.dim;
  const auto group = std::make_unique<Group<kBytes, kBits>>(dim, trellis.levels);
  for (size_t first = 0; first < trellis.count; first += kLanes) {
    const size_t count = std::min(kLanes, trellis.count - first);
    for (size_t i = 0; i < kLanes; ++i) {
      const size_t t = first + std::min(i, count - 1);
      std::copy_n(trellis.values + t * dim, dim, group->token[i].residual);
      group->scales[i] = 1.0f;
    }
    group->choose();
    for (size_t i = 0; i < count; ++i) {
      pack_windows<kBits>(group->token[i].indices, dim,
                          trellis.packed + (first + i) * dim * kBits / 8);
    }
  }
}

template <size_t kBytes, int kBits>
void quantise_colbertv2_bits(const QuantiseTokens& tokens, const ColbertTables& tables) {
  using F = Floats<kBytes>;
  const Cells<kBytes, kBits> cells(tables.levels, tables.cutoffs);
  Padded token;
  token.start(tokens.dim);
  for (size_t t = 0; t < tokens.count; ++t) {
    token.take(tokens, t);
    for (size_t d = 0; d < token.lanes; d += kLanes) {
      const F residual = F::load(token.residual + d);
      cells.level_of(residual).store(token.chosen + d);
      cells.index_of(residual, token.indices + d);
    }
    token.clear_tail();
    const float inverse = 1.0f / decoded_norm<F>(token, 1.0f);
    const float step = std::nearbyint((inverse - tables.lowest) * tables.steps);
    pack_planes<kBits>(token.indices, token.dim, tokens.packed + t * token.dim * kBits / 8);
    tokens.scales[t] = static_cast<uint8_t>(std::clamp(step, 0.0f, 255.0f));
  }
}

template <size_t kBytes>
void best_bits(const TrellisValues& trellis) {
  switch (trellis.bits) {
    case 1:
      return best_bits_of<kBytes, 1>(trellis);
    case 2:
      return best_bits_of<kBytes, 2>(trellis);
    case 3:
      return best_bits_of<kBytes, 3>(trellis);
    default:
      return best_bits_of<kBytes, 4>(trellis);
  }
}

template <size_t kBytes>
void quantise_tartan(const QuantiseTokens& tokens, const TartanTables& tables) {
  switch (tables.bits) {
    case 1:
      return quantise_tartan_bits<kBytes, 1>(tokens, tables);
    case 2:
      return quantise_tartan_bits<kBytes, 2>(tokens, tables);
    case 3:
      return quantise_tartan_bits<kBytes, 3>(tokens, tables);
    default:
      return quantise_tartan_bits<kBytes, 4>(tokens, tables);
  }
}

template <size_t kBytes>
void quantise_colbertv2(const QuantiseTokens& tokens, const ColbertTables& tables) {
  switch (tables.bits) {
    case 1:
      return quantise_colbertv2_bits<kBytes, 1>(tokens, tables);
    case 2:
      return quantise_colbertv2_bits<kBytes, 2>(tokens, tables);
    case 3:
      return quantise_colbertv2_bits<kBytes, 3>(tokens, tables);
    default:
      return quantise_colbertv2_bits<kBytes, 4>(tokens, tables);
  }
}

// The leaf of a path whose registers have kBytes.
template <size_t kBytes>
constexpr BuildLeaf make_build_leaf(const char* name, uint8_t flip,
                                    decltype(BuildLeaf::offer) offer) {
  return {name,
          nullptr,
          nullptr,
          flip,
          offer,
          to_int8<kBytes>,
          add_rows,
          best_bits<kBytes>,
          quantise_tartan<kBytes>,
          quantise_colbertv2<kBytes>};
}

}  // namespace
}  // namespace tartan
