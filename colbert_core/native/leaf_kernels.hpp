// The leaf kernels, written once over a vector class V that a leaf_*.cpp file defines:
// leaf_dots.hpp says what V has. Here they become the functions that `Leaf` points to.
#pragma once

#include "leaf_decode.hpp"
#include "leaf_probe.hpp"
#include "leaf_refine.hpp"
#include "leaf_rotate.hpp"
#include "leaf_scan.hpp"

namespace tartan {
namespace {

template <int G>
struct Vectors {
  static constexpr int kCount = G;
};

// Calls use(Vectors<G>()) for as many vectors as the tokens of a block fill.
template <class V, class Use>
inline void with_vectors(const QueryBlock& query, const Use& use) {
  const int count = (query.tokens + V::kLanes - 1) / V::kLanes;
  if (count == 1) return use(Vectors<1>());
  if constexpr (V::kLanes < kGroup) {
    if (count == 3) return use(Vectors<3>());
    if (count == 4) return use(Vectors<4>());
  }
  use(Vectors<2>());
}

template <class V>
void centroid_dots(const CentroidView& table, const uint32_t* ids, size_t count,
                   const QueryBlock& query, float* dots) {
  if (count == 0) return;
  with_vectors<V>(query, [&](auto vectors) {
    centroid_dots_vectors<V, vectors.kCount>(table, ids, count, query, dots);
  });
}

template <class V>
void centroid_rows(const CentroidView& table, const uint32_t* ids, size_t count,
                   const QueryBlock& query, const float* gains, int16_t* rows) {
  if (count == 0) return;
  with_vectors<V>(query, [&](auto vectors) {
    centroid_rows_vectors<V, vectors.kCount>(table, ids, count, query, gains, rows);
  });
}

template <class V>
void probe(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
           const ProbeLanes& lanes) {
  with_vectors<V>(query, [&](auto vectors) {
    probe_vectors<V, vectors.kCount>(table, begin, end, query, lanes);
  });
}

template <class V>
void scan(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
          float* best) {
  with_vectors<V>(query, [&](auto vectors) {
    if constexpr (V::kScansRows) {
      refine_vectors<V, vectors.kCount>(tokens, tables, query, best);
    } else {
      scan_vectors<V, vectors.kCount>(tokens, tables, query, best);
    }
  });
}

template <class V>
void dots(const float* vectors, size_t count, size_t dim, const QueryBlock& query, float* out) {
  with_vectors<V>(query, [&](auto of_query) {
    dots_vectors<V, of_query.kCount>(vectors, count, dim, query, out);
  });
}

// V multiplies by the query; Wide, of 16 lanes, decodes and rotates.
template <class V, class Wide = V>
constexpr Leaf make_leaf(const char* name) {
  static_assert(Wide::kLanes == kGroup);
  Leaf leaf{};
  leaf.name = name;
  leaf.scans_rows = V::kScansRows;
  if constexpr (V::kScansRows) {
    leaf.level_dots = lane_level_dots<V>;
  } else {
    leaf.centroid_dots = centroid_dots<V>;
    leaf.level_dots = level_dots<V>;
  }
  leaf.centroid_rows = centroid_rows<V>;
  leaf.largest_row = largest_row;
  leaf.probe = probe<V>;
  leaf.scan = scan<V>;
  leaf.decode = decode_tokens<Wide>;
  leaf.dots = dots<V>;
  leaf.rotate = rotate<Wide>;
  return leaf;
}

}  // namespace
}  // namespace tartan
