// The nearest of all centroids, by the largest integer product: assignment of tokens to centroids.
#pragma once

#include <span>

#include "build_leaf.hpp"

namespace tartan {

// Tokens in groups, and for each group the runs of centroids (kRun one after the other) that its
// tokens look at.
struct TokenGroups {
  std::span<const int32_t> order_T;    // the tokens, group after group
  std::span<const int64_t> starts_G1;  // where in it each group starts, and the end
  std::span<const int32_t> runs_GM;    // M runs of each group, in the order of visits
};

class NearestCentroid {
 public:
  // Copies the rows. Throws std::invalid_argument.
  NearestCentroid(std::span<const int8_t> codes_CD, size_t dim);

  size_t centroids() const { return count_; }
  size_t dim() const { return rows_.dim; }
  size_t runs() const { return (count_ + kRun - 1) / kRun; }

  // The centroid of each token; of equal ones the first.
  void assign(std::span<const int8_t> tokens_TD, size_t threads, int32_t* codes_T) const;
  // The same, among the centroids that a token's group looks at.
  void assign_among(std::span<const int8_t> tokens_TD, const TokenGroups&, size_t threads,
                    int32_t* codes_T) const;

 private:
  void pack(const int8_t* tokens, const int32_t* order, size_t count, int8_t* tile) const;
  void fetch(const int8_t* tokens, const int32_t* order, size_t count) const;
  void check_groups(const TokenGroups&, size_t tokens) const;

  const BuildLeaf& leaf_;
  size_t count_;
  AlignedBuffer<int8_t> data_;
  AlignedBuffer<int32_t> sums_;
  CentroidRows rows_;
};

}  // namespace tartan
