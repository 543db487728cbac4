// AMX: the matrix unit multiplies the next tile while the vector unit looks at this one's products.
// Everything but the products is the AVX-512 path's.
#include <sys/syscall.h>
#include <unistd.h>

#include "amx_tiles.hpp"

namespace tartan {
namespace {

// The products of up to 32 consecutive centroids from `first` on.
template <int G>
inline void multiply_run(const CentroidView& table, size_t first, size_t end,
                         const QueryBlock& query, uint8_t* copies,
                         Products<G, Planes::kCoarse>& products) {
  const int used = tile_rows(end - first);
  const int8_t* const codes = table.codes + first * table.dim;
  if (used == kPair && table.dim % kTileBytes == 0) {
    products.compute(reinterpret_cast<const uint8_t*>(codes), table.dim, query, table.dim);
    return;
  }
  const size_t stride = tile_dim(table.dim);
  for (int r = 0; r < used; ++r) copy_row(codes + r * table.dim, table.dim, copies + r * stride);
  products.compute(copies, stride, query, table.dim);
}

// The unit multiplies the next tile while this one's dots are stored.
template <int G>
void centroid_rows_amx(const CentroidView& table, const uint32_t* ids, size_t count,
                       const QueryBlock& query, const float* gains, int16_t* rows) {
  alignas(64) uint8_t copies[kPair * tile_dim(kMaxDim)];
  Products<G, Planes::kCoarse> tiles[2];
  const size_t stride = tile_dim(table.dim);
  const auto multiply_tile = [&](size_t first, Products<G, Planes::kCoarse>& products) {
    if (ids == nullptr) return multiply_run<G>(table, first, count, query, copies, products);
    const size_t left = count - first;
    gather_rows(table, ids + first, tile_rows(left), left, stride, copies);
    products.compute(copies, stride, query, table.dim);
  };
  multiply_tile(0, tiles[0]);
  int current = 0;
  for (size_t first = 0; first < count; first += kPair, current ^= 1) {
    if (first + kPair < count) multiply_tile(first + kPair, tiles[current ^ 1]);
    for (int r = 0; r < tile_rows(count - first); ++r) {
      const size_t at = first + static_cast<size_t>(r);
      const float c_scale = table.scales[ids == nullptr ? at : ids[at]];
      for (int g = 0; g < G; ++g) {
        store_row<Avx512>(tiles[current].of(r, g), c_scale, gains + g * kGroup,
                          rows + (at * G + g) * kGroup);
      }
    }
  }
}

// The unit multiplies the next tile while this one's dots are stored.
template <int G>
void centroid_dots_amx(const CentroidView& table, const uint32_t* ids, size_t count,
                       const QueryBlock& query, float* dots) {
  alignas(64) uint8_t copies[kPair * tile_dim(kMaxDim)];
  Products<G, Planes::kBoth> tiles[2];
  const size_t stride = tile_dim(table.dim);
  const auto multiply_tile = [&](size_t first, Products<G, Planes::kBoth>& products) {
    const size_t left = count - first;
    gather_rows(table, ids + first, tile_rows(left), left, stride, copies);
    products.compute(copies, stride, query, table.dim);
  };
  multiply_tile(0, tiles[0]);
  int current = 0;
  for (size_t first = 0; first < count; first += kPair, current ^= 1) {
    if (first + kPair < count) multiply_tile(first + kPair, tiles[current ^ 1]);
    for (int r = 0; r < tile_rows(count - first); ++r) {
      for (int g = 0; g < G; ++g) {
        const size_t at = (first + static_cast<size_t>(r)) * G + static_cast<size_t>(g);
        _mm512_storeu_ps(dots + at * kGroup, tiles[current].of(r, g));
      }
    }
  }
}

// The largest of eight rows tells whether any of them need be looked at.
template <int G, class Score>
inline void offer_tile(const Score& score, uint32_t first, int used, int group,
                       const ProbeLanes& lanes) {
  constexpr int kRun = 8;
  __m512 largest[kPair / kRun];
  for (int run = 0; run * kRun < used; ++run) {
    const int begin = run * kRun;
    const int end = begin + kRun < used ? begin + kRun : used;
    largest[run] = score(begin);
    for (int r = begin + 1; r < end; ++r) largest[run] = _mm512_max_ps(largest[run], score(r));
  }
  for (int run = 0; run * kRun < used; ++run) {
    if (__builtin_expect(!any_above<Avx512, G>(largest[run], group, lanes), 1)) continue;
    const int begin = run * kRun;
    offer_rows<Avx512, G>([&](int r) { return score(begin + r); }, largest[run],
                          first + static_cast<uint32_t>(begin),
                          used - begin < kRun ? used - begin : kRun, group, lanes);
  }
}

// The unit multiplies the next tile while the scores of this one are looked at.
template <int G>
void probe_amx(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
               const ProbeLanes& lanes) {
  alignas(64) uint8_t copies[kPair * tile_dim(kMaxDim)];
  Products<G, Planes::kCoarse> tiles[2];
  multiply_run<G>(table, begin, end, query, copies, tiles[0]);
  int current = 0;
  for (uint32_t first = begin; first < end; first += kPair, current ^= 1) {
    const uint32_t next = first + kPair;
    if (next < end) multiply_run<G>(table, next, end, query, copies, tiles[current ^ 1]);
    const Products<G, Planes::kCoarse>& products = tiles[current];
    if (lanes.rows != nullptr) {
      for (int r = 0; r < tile_rows(end - first); ++r) {
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) {
          store_row<Avx512>(products.of(r, g), table.scales[first + r], lanes.gains + g * kGroup,
                            lanes.rows + ((first + static_cast<size_t>(r)) * G + g) * kGroup);
        }
      }
    }
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      const __m512 q_scales = _mm512_loadu_ps(query.coarse_scales + g * kGroup);
      const auto score = [&](int r) {
        const __m512 both = _mm512_mul_ps(q_scales, _mm512_set1_ps(table.scales[first + r]));
        return _mm512_mul_ps(products.of(r, g), both);
      };
      offer_tile<G>(score, first, tile_rows(end - first), g, lanes);
    }
  }
}

template <int G>
inline const float* kept_dots(const ScanTables& tables, uint32_t row) {
  return tables.kept + static_cast<size_t>(row) * G * kGroup;
}

template <int G>
inline void prefetch_kept(const ScanTables& tables, uint32_t row) {
  for (int g = 0; g < G; ++g) __builtin_prefetch(kept_dots<G>(tables, row) + g * kGroup);
}

// Gathers, unpacks and multiplies up to 32 tokens from `first` on; where the dots of centroids are
// kept, asks for those of the tokens.
template <int G, bool kKept>
inline void multiply_tokens(const ScanTokens& tokens, size_t first, const ScanTables& tables,
                            const Avx512::Windows& levels, const QueryBlock& query,
                            Products<G, Planes::kBoth>& centroids,
                            Products<G, Planes::kBoth>& residuals) {
  const CentroidView& table = tables.centroids;
  const size_t stride = tile_stride(table.dim);
  const size_t bytes = table.dim * tables.bits / 8;
  const size_t left = tokens.count - first;
  if (kKept) {
    for (int r = 0; r < tile_rows(left); ++r) prefetch_kept<G>(tables, tokens.rows[first + r]);
  } else {
    gather_rows(table, tokens.rows + first, tile_rows(left), tokens.rows_known - first, stride,
                tables.centroid_tile);
  }
  prefetch_next(tokens, first, kPair, bytes);
  unpack_rows<Avx512>(tokens.residuals + first * bytes, tile_rows(left), tokens.residuals_end,
                      tables.bits, table.dim, levels, tables.tile, stride,
                      tables.tile + kTileRows * stride);
  if (!kKept) centroids.compute(tables.centroid_tile, stride, query, table.dim);
  residuals.compute(tables.tile, stride, query, table.dim);
}

// The unit multiplies the next tile while the scores of this one are added up.
template <int G, bool kKept>
void scan_amx(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
              float* best) {
  // Levels stay signed: the unit multiplies signed bytes by signed ones.
  const Avx512::Windows levels =
      Avx512::load_windows(reinterpret_cast<const uint8_t*>(tables.levels));
  Products<G, Planes::kBoth> centroids[2], residuals[2];
  __m512 running[G];
  for (int g = 0; g < G; ++g) running[g] = _mm512_set1_ps(-__builtin_inff());
  multiply_tokens<G, kKept>(tokens, 0, tables, levels, query, centroids[0], residuals[0]);
  int current = 0;
  for (size_t first = 0; first < tokens.count; first += kPair, current ^= 1) {
    if (const size_t next = first + kPair; next < tokens.count) {
      multiply_tokens<G, kKept>(tokens, next, tables, levels, query, centroids[current ^ 1],
                                residuals[current ^ 1]);
    }
    for (int r = 0; r < tile_rows(tokens.count - first); ++r) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        const size_t t = first + static_cast<size_t>(r);
        const __m512 centroid =
            kKept ? _mm512_loadu_ps(kept_dots<G>(tables, tokens.rows[t]) + g * kGroup)
                  : centroids[current].of(r, g);
        const __m512 score = token_score<Avx512>(centroid, residuals[current].of(r, g), tokens, t);
        running[g] = _mm512_max_ps(running[g], score);
      }
    }
  }
  for (int g = 0; g < G; ++g) {
    const __m512 q_scales = _mm512_loadu_ps(query.scales + g * kGroup);
    _mm512_storeu_ps(best + g * kGroup, _mm512_mul_ps(running[g], q_scales));
  }
}

void centroid_dots_any(const CentroidView& table, const uint32_t* ids, size_t count,
                       const QueryBlock& query, float* dots) {
  if (count == 0) return;
  (query.groups == 1 ? centroid_dots_amx<1> : centroid_dots_amx<2>)(table, ids, count, query, dots);
}

void centroid_rows_any(const CentroidView& table, const uint32_t* ids, size_t count,
                       const QueryBlock& query, const float* gains, int16_t* rows) {
  if (count == 0) return;
  (query.groups == 1 ? centroid_rows_amx<1> : centroid_rows_amx<2>)(table, ids, count, query, gains,
                                                                    rows);
}

void probe_any(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
               const ProbeLanes& lanes) {
  (query.groups == 1 ? probe_amx<1> : probe_amx<2>)(table, begin, end, query, lanes);
}

void scan_any(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
              float* best) {
  if (tables.kept == nullptr) {
    (query.groups == 1 ? scan_amx<1, false> : scan_amx<2, false>)(tokens, tables, query, best);
  } else {
    (query.groups == 1 ? scan_amx<1, true> : scan_amx<2, true>)(tokens, tables, query, best);
  }
}

// What the matrix unit does not do is as on the AVX-512 path, kernels to come included.
constexpr Leaf make_amx() {
  Leaf leaf = make_leaf<Avx512>("amx");
  leaf.enter = enter;
  leaf.leave = leave;
  leaf.multiplies_centroids = true;
  leaf.centroid_dots = centroid_dots_any;
  leaf.centroid_rows = centroid_rows_any;
  leaf.probe = probe_any;
  leaf.scan = scan_any;
  return leaf;
}

constexpr Leaf kLeaf = make_amx();

}  // namespace

const Leaf& leaf_amx() { return kLeaf; }

bool amx_allowed() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace tartan
