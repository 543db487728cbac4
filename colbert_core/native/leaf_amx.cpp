// AMX: the matrix unit multiplies 16 stored vectors by 16 query lanes over 64 dimensions at once.
//
// Two tiles of stored vectors meet two groups of the query in four accumulators. A query plane lies
// in memory as the tiles want it; dimensions beyond the last are zero there, so it does not matter
// what a stored row holds in them. Everything but the products is the AVX-512 path's.
#include <sys/syscall.h>
#include <unistd.h>

#include "leaf_avx512.hpp"

namespace tartan {
namespace {

constexpr int kRows = 16;          // of a tile
constexpr int kPair = 2 * kRows;   // stored vectors that are worked on together
constexpr size_t kTileBytes = 64;  // of a tile's row
static_assert(kPair <= static_cast<int>(kTileRows));

// Eight tiles of 16 rows of 64 bytes. In static memory: gcc's _tile_loadconfig reads 64 bytes but
// tells the compiler of 8, so that a local variable would not be written in full.
struct alignas(64) Configuration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const Configuration kConfiguration;

void enter() { _tile_loadconfig(&kConfiguration); }
void leave() { _tile_release(); }

// products[r][g][lane] of 32 rows, `stride` bytes apart and readable to the next multiple of 64
// dimensions, with one plane.
template <int G>
inline void multiply(const uint8_t* rows, size_t stride, const QueryPlane& plane, size_t dim,
                     int32_t* products) {
  _tile_zero(0);
  _tile_zero(2);
  if (G == 2) _tile_zero(1);
  if (G == 2) _tile_zero(3);
  constexpr size_t kLaneBytes = G * kGroup * 4;
  for (size_t d = 0; d < dim; d += kTileBytes) {
    const int8_t* const quads = plane.i8 + d / 4 * kLaneBytes;
    _tile_loadd(4, rows + d, stride);
    _tile_loadd(6, quads, kLaneBytes);
    _tile_dpbssd(0, 4, 6);
    if (G == 2) _tile_loadd(7, quads + kGroup * 4, kLaneBytes);
    if (G == 2) _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, rows + kRows * stride + d, stride);
    _tile_dpbssd(2, 5, 6);
    if (G == 2) _tile_dpbssd(3, 5, 7);
  }
  constexpr size_t kOut = G * kGroup * sizeof(int32_t);
  _tile_stored(0, products, kOut);
  if (G == 2) _tile_stored(1, products + kGroup, kOut);
  _tile_stored(2, products + kRows * G * kGroup, kOut);
  if (G == 2) _tile_stored(3, products + kRows * G * kGroup + kGroup, kOut);
}

// The products of 32 rows with the planes that are used.
template <int G, Planes kPlanes>
struct Products {
  alignas(64) int32_t high[kPair * G * kGroup];
  alignas(64) int32_t low[kPlanes == Planes::kBoth ? kPair * G * kGroup : 1];

  void compute(const uint8_t* rows, size_t stride, const QueryBlock& query, size_t dim) {
    multiply<G>(rows, stride, query.high, dim, high);
    if (kPlanes == Planes::kBoth) multiply<G>(rows, stride, query.low, dim, low);
  }

  __m512 of(int row, int group) const {
    const int at = (row * G + group) * kGroup;
    const __m512 dots = _mm512_cvtepi32_ps(_mm512_load_si512(high + at));
    if (kPlanes == Planes::kHigh) return dots;
    const __m512 rest = _mm512_cvtepi32_ps(_mm512_load_si512(low + at));
    return _mm512_add_ps(dots, _mm512_mul_ps(rest, _mm512_set1_ps(kLowPart)));
  }
};

template <int G>
inline __m512 scaled(__m512 dots, const QueryBlock& query, int group, float scale) {
  const __m512 both =
      _mm512_mul_ps(_mm512_loadu_ps(query.scales + group * kGroup), _mm512_set1_ps(scale));
  return _mm512_mul_ps(dots, both);
}

inline void copy_row(const int8_t* from, size_t dim, uint8_t* to) {
  size_t d = 0;
  for (; d + 64 <= dim; d += 64) _mm512_storeu_si512(to + d, _mm512_loadu_si512(from + d));
  if (d < dim) __builtin_memcpy(to + d, from + d, dim - d);
}

template <int G, Planes kPlanes>
void centroid_scores_amx(const CentroidView& table, const uint32_t* ids, size_t count,
                         const QueryBlock& query, float* scores) {
  alignas(64) uint8_t rows[kPair * tile_dim(kMaxDim)];
  const size_t stride = tile_dim(table.dim);
  Products<G, kPlanes> products;
  for (size_t first = 0; first < count; first += kPair) {
    const int used = static_cast<int>(count - first < kPair ? count - first : kPair);
    for (int r = 0; r < used; ++r) {
      if (first + r + kPair < count) {
        const int8_t* const ahead = table.codes + ids[first + r + kPair] * table.dim;
        for (size_t d = 0; d < table.dim; d += 64) __builtin_prefetch(ahead + d);
      }
      copy_row(table.codes + ids[first + r] * table.dim, table.dim, rows + r * stride);
    }
    products.compute(rows, stride, query, table.dim);
    for (int r = 0; r < used; ++r) {
      const float scale = table.scales[ids[first + r]];
      for (int g = 0; g < G; ++g) {
        _mm512_storeu_ps(scores + ((first + r) * G + g) * kGroup,
                         scaled<G>(products.of(r, g), query, g, scale));
      }
    }
  }
}

template <int G>
void probe_amx(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
               const float* thresholds, Offer offer, void* context) {
  alignas(64) uint8_t last_rows[kPair * tile_dim(kMaxDim)];
  Products<G, Planes::kHigh> products;
  for (uint32_t first = begin; first < end; first += kPair) {
    const int used = static_cast<int>(end - first < kPair ? end - first : kPair);
    const int8_t* const codes = table.codes + first * table.dim;
    if (used == kPair && table.dim % kTileBytes == 0) {
      products.compute(reinterpret_cast<const uint8_t*>(codes), table.dim, query, table.dim);
    } else {
      const size_t stride = tile_dim(table.dim);
      for (int r = 0; r < used; ++r) copy_row(codes + r * table.dim, table.dim, last_rows + r * stride);
      products.compute(last_rows, stride, query, table.dim);
    }
    for (int r = 0; r < used; ++r) {
      const float scale = table.scales[first + r];
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        offer_above<Avx512>(scaled<G>(products.of(r, g), query, g, scale), thresholds, first + r, g,
                            offer, context);
      }
    }
  }
}

template <int G, Planes kPlanes>
void scan_amx(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
              float* best) {
  const size_t stride = tile_stride(tables.dim);
  const size_t bytes = tables.dim * tables.bits / 8;
  uint8_t* const spare = tables.tile + kTileRows * stride;
  alignas(16) uint8_t signed_levels[16];
  __builtin_memcpy(signed_levels, tables.levels, 16);
  const Avx512::Table levels = Avx512::load_table(signed_levels);
  Products<G, kPlanes> products;
  __m512 running[G], q_scales[G];
  for (int g = 0; g < G; ++g) {
    running[g] = _mm512_set1_ps(-__builtin_inff());
    q_scales[g] = _mm512_loadu_ps(query.scales + g * kGroup);
  }
  for (size_t first = 0; first < tokens.count; first += kPair) {
    const int used = static_cast<int>(tokens.count - first < kPair ? tokens.count - first : kPair);
    for (int r = 0; r < used; ++r) {
      const float* const centroid_row = tables.S + static_cast<size_t>(tokens.rows[first + r]) * G * kGroup;
      for (int g = 0; g < G; ++g) __builtin_prefetch(centroid_row + g * kGroup);
      const uint8_t* const packed = packed_token(tokens.residuals + (first + r) * bytes,
                                                 tokens.residuals_end, bytes, spare);
      unpack<Avx512>(packed, tables.bits, tables.dim, levels, tables.tile + r * stride);
    }
    products.compute(tables.tile, stride, query, tables.dim);
    for (int r = 0; r < used; ++r) {
      const float* const centroid_row = tables.S + static_cast<size_t>(tokens.rows[first + r]) * G * kGroup;
      const uint8_t scale = tokens.scales[first + r];
      const __m512 alpha = _mm512_set1_ps(tables.alpha[scale]);
      const __m512 weight = _mm512_set1_ps(tables.weight[scale]);
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        running[g] = _mm512_max_ps(running[g],
                                   token_score<Avx512>(products.of(r, g), q_scales[g],
                                                       centroid_row + g * kGroup, alpha, weight));
      }
    }
  }
  for (int g = 0; g < G; ++g) _mm512_storeu_ps(best + g * kGroup, running[g]);
}

void centroid_scores_any(const CentroidView& table, const uint32_t* ids, size_t count,
                         const QueryBlock& query, Planes planes, float* scores) {
  const bool one = query.groups == 1;
  if (planes == Planes::kHigh) {
    (one ? centroid_scores_amx<1, Planes::kHigh> : centroid_scores_amx<2, Planes::kHigh>)(
        table, ids, count, query, scores);
  } else {
    (one ? centroid_scores_amx<1, Planes::kBoth> : centroid_scores_amx<2, Planes::kBoth>)(
        table, ids, count, query, scores);
  }
}

void probe_any(const CentroidView& table, uint32_t begin, uint32_t end, const QueryBlock& query,
               const float* thresholds, Offer offer, void* context) {
  (query.groups == 1 ? probe_amx<1> : probe_amx<2>)(table, begin, end, query, thresholds, offer,
                                                    context);
}

void scan_any(const ScanTokens& tokens, const ScanTables& tables, const QueryBlock& query,
              Planes planes, float* best) {
  const bool one = query.groups == 1;
  if (planes == Planes::kHigh) {
    (one ? scan_amx<1, Planes::kHigh> : scan_amx<2, Planes::kHigh>)(tokens, tables, query, best);
  } else {
    (one ? scan_amx<1, Planes::kBoth> : scan_amx<2, Planes::kBoth>)(tokens, tables, query, best);
  }
}

constexpr Leaf kLeaf = {"amx",    enter,    leave, centroid_scores_any,
                        probe_any, scan_any, decode_tokens<Avx512>, dots<Avx512>};

}  // namespace

const Leaf& leaf_amx() { return kLeaf; }

bool amx_allowed() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace tartan
