// The leaf kernels, written once over a vector class V that a leaf_*.cpp file defines:
// leaf_dots.hpp says what V has. Here they become the functions that `Leaf` points to.
#pragma once

#include "leaf_decode.hpp"
#include "leaf_probe.hpp"
#include "leaf_rotate.hpp"
#include "leaf_scan.hpp"

namespace tartan {
namespace {

template <class V>
void centroid_dots(const CentroidView& table, const uint32_t* ids, size_t count,
                   const QueryBlock& query, float* dots) {
  if (count == 0) return;
  (query.groups == 1 ? centroid_dots_groups<V, 1> : centroid_dots_groups<V, 2>)(table, ids, count,
                                                                                query, dots);
}

template <class V>
void centroid_rows(const CentroidView& table, const uint32_t* ids, size_t count,
                   const QueryBlock& query, const float* gains, int16_t* rows) {
  if (count == 0) return;
  (query.groups == 1 ? centroid_rows_groups<V, 1> : centroid_rows_groups<V, 2>)(table, ids, count,
                                                                                query, gains, rows);
}

template <class V>
void probe(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
           const ProbeLanes& lanes) {
  (query.groups == 1 ? probe_groups<V, 1> : probe_groups<V, 2>)(table, begin, end, query, lanes);
}

template <class V>
void scan(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
          float* best) {
  (query.groups == 1 ? scan_groups<V, 1> : scan_groups<V, 2>)(tokens, tables, query, best);
}

template <class V>
void dots(const float* vectors, size_t count, size_t dim, const QueryBlock& query, float* out) {
  (query.groups == 1 ? dots_groups<V, 1> : dots_groups<V, 2>)(vectors, count, dim, query, out);
}

template <class V>
constexpr Leaf make_leaf(const char* name) {
  return {name,        nullptr,  nullptr, false,         centroid_dots<V>, centroid_rows<V>,
          largest_row, probe<V>, scan<V>, level_dots<V>, decode_tokens<V>, dots<V>,
          rotate<V>};
}

}  // namespace
}  // namespace tartan
