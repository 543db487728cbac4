#include "build_vectors.hpp"

#include <algorithm>

#include "build_threads.hpp"
#include "cpu.hpp"
#include "leaf.hpp"

namespace tartan {

namespace {

constexpr size_t kPart = 256;  // rows that a thread takes at a time

// Calls work(first, count) for parts of some rows.
template <class Work>
void for_rows(size_t rows, size_t threads, const Work& work) {
  for_each_part((rows + kPart - 1) / kPart, threads, [&] {
    return [&](size_t part) {
      const size_t first = part * kPart;
      work(first, std::min(kPart, rows - first));
    };
  });
}

void require_codes(std::span<const int32_t> codes, size_t centroids) {
  for (const int32_t code : codes) {
    require(code >= 0 && static_cast<size_t>(code) < centroids,
            "codes must lie below the number of centroids, " + std::to_string(centroids));
  }
}

void require_form(int bits, size_t dim) {
  require(bits >= 1 && bits <= 4, "bits " + std::to_string(bits) + " must be 1, 2, 3 or 4");
  require(dim >= 8 && dim <= kMaxDim && dim % 8 == 0,
          "dimension " + std::to_string(dim) + " must be a multiple of 8 from 8 to 1024");
}

template <class Tables>
void quantise(const QuantiseTokens& tokens, size_t centroids, const Tables& tables, size_t threads,
              void (*kernel)(const QuantiseTokens&, const Tables&)) {
  require_form(tables.bits, tokens.dim);
  require_codes({tokens.codes, tokens.count}, centroids);
  for_rows(tokens.count, threads, [&](size_t first, size_t count) {
    QuantiseTokens part = tokens;
    part.vectors += first * tokens.dim;
    part.codes += first;
    part.packed += first * (tokens.dim * static_cast<size_t>(tables.bits) / 8);
    part.scales += first;
    part.count = count;
    kernel(part, tables);
  });
}

}  // namespace

void rotate(std::span<const float> vectors_TD, std::span<const float> rotation_DD, size_t dim,
            size_t threads, float* rotated) {
  const Leaf& leaf = active_leaf();
  for_rows(vectors_TD.size() / dim, threads, [&](size_t first, size_t count) {
    leaf.rotate(vectors_TD.data() + first * dim, count, rotation_DD.data(), dim,
                rotated + first * dim);
  });
}

void to_int8(std::span<const float> vectors_TD, size_t dim, size_t threads, int8_t* values,
             float* scales) {
  const BuildLeaf& leaf = active_build_leaf();
  for_rows(vectors_TD.size() / dim, threads, [&](size_t first, size_t count) {
    leaf.to_int8(vectors_TD.data() + first * dim, count, dim, values + first * dim, scales + first);
  });
}

void add_rows(std::span<const int8_t> values_SD, std::span<const int32_t> weights_S,
              std::span<const int32_t> codes_S, size_t dim, size_t centroids, size_t threads,
              int64_t* sums) {
  require_codes(codes_S, centroids);
  for (const int32_t weight : weights_S) {
    require(weight >= 0 && weight <= kMaxWeight,
            "weights must lie between 0 and " + std::to_string(kMaxWeight));
  }
  threads = std::min(threads, centroids);
  const BuildLeaf& leaf = active_build_leaf();
  // Each thread has its own range of centroids.
  for_each_part(threads, threads, [&] {
    return [&](size_t part) {
      const size_t begin = centroids * part / threads;
      const size_t end = centroids * (part + 1) / threads;
      leaf.add_rows(values_SD.data(), weights_S.data(), codes_S.data(), codes_S.size(), dim,
                    static_cast<int32_t>(begin), static_cast<int32_t>(end), sums + begin * dim);
    };
  });
}

void best_bits(const TrellisValues& trellis, size_t threads) {
  require_form(trellis.bits, trellis.dim);
  const BuildLeaf& leaf = active_build_leaf();
  for_rows(trellis.count, threads, [&](size_t first, size_t count) {
    TrellisValues part = trellis;
    part.values += first * trellis.dim;
    part.packed += first * (trellis.dim * static_cast<size_t>(trellis.bits) / 8);
    part.count = count;
    leaf.best_bits(part);
  });
}

void quantise_tartan(QuantiseTokens tokens, size_t centroids, const TartanTables& tables,
                     size_t threads) {
  quantise(tokens, centroids, tables, threads, active_build_leaf().quantise_tartan);
}

void quantise_colbertv2(QuantiseTokens tokens, size_t centroids, const ColbertTables& tables,
                        size_t threads) {
  quantise(tokens, centroids, tables, threads, active_build_leaf().quantise_colbertv2);
}

}  // namespace tartan
