// The best centroids of every query token, of those that a leaf offers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "leaf.hpp"
#include "query_pack.hpp"

namespace tartan {

// Per query token the best P of the centroids offered so far, with slack, so that most offers are
// one store: only a full buffer is cut back to P.
class ProbeSelector {
 public:
  // For P of `centroids` each. A token's threshold rises with what is seen: P that are seen exceed
  // it, or as many as are seen.
  void reset(const QueryPack& query, size_t nprobe, size_t centroids);
  // As if thresholds had risen to those of `looked`, which saw a part of the centroids: a guess,
  // that stays as it is. Whether P of all do exceed it, `short_of_any` tells afterwards.
  void guess(const ProbeSelector& looked);
  // Whether some query token was offered fewer than P.
  bool short_of_any(size_t tokens) const;
  ProbeLanes lanes(const QueryBlock& block);
  void offer(size_t token, Offer offered);
  // The best, in order, of one query token: rank keys.
  std::span<const uint64_t> finish(size_t token);

 private:
  float* lanes_of(const QueryBlock& block);
  void cut(size_t token);
  static void make_room(void* selector, size_t token);

  std::vector<Offer> offers_;         // [lanes][capacity]
  std::vector<uint32_t> counts_;      // [lanes]
  std::vector<float> best_;           // [blocks][depth][lanes of a block]
  std::vector<size_t> threshold_at_;  // of each lane of a block, in best_
  std::vector<uint64_t> keys_;        // of one query token
  size_t nprobe_ = 0;
  size_t capacity_ = 0;
  bool rise_ = true;
};

}  // namespace tartan
