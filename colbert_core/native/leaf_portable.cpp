// Any processor: plain loops over 16 lanes, which compilers vectorise for what they are given.
#include "leaf_kernels.hpp"

namespace tartan {
namespace {

struct Portable {
  struct I {
    int32_t lane[kGroup];
  };
  struct F {
    float lane[kGroup];
  };
  struct Row {
    int8_t quad[4];
  };
  struct Bytes {
    uint8_t byte[16];
  };
  using F16 = F;
  using Quads = const int8_t*;
  using Table = Bytes;
  static constexpr int kBias = 0;
  static constexpr size_t kBytes = 16;
  template <int G>
  static constexpr int kTile = 2;

  static I splat_i(int32_t value) {
    I out;
    for (int32_t& lane : out.lane) lane = value;
    return out;
  }
  static I bias_correction(const int32_t*) { return splat_i(0); }

  template <bool kLevels>
  static const int8_t* query_side(const QueryBlock& query) {
    return query.i8;
  }
  static Quads load_quads(const int8_t* p) { return p; }
  static Row load_row(const uint8_t* p) {
    Row row;
    __builtin_memcpy(row.quad, p, 4);
    return row;
  }
  template <bool kLevels>
  static I dot(I acc, Quads q, Row row) {
    for (int i = 0; i < kGroup; ++i) {
      acc.lane[i] += q[4 * i] * row.quad[0] + q[4 * i + 1] * row.quad[1] +
                     q[4 * i + 2] * row.quad[2] + q[4 * i + 3] * row.quad[3];
    }
    return acc;
  }

  static F splat(float value) {
    F out;
    for (float& lane : out.lane) lane = value;
    return out;
  }
  static F load(const float* p) {
    F out;
    __builtin_memcpy(out.lane, p, sizeof(out.lane));
    return out;
  }
  static void store(float* p, const F& value) {
    __builtin_memcpy(p, value.lane, sizeof(value.lane));
  }
  static F to_float(const I& value) {
    F out;
    for (int i = 0; i < kGroup; ++i) out.lane[i] = static_cast<float>(value.lane[i]);
    return out;
  }
  static F widen(const int8_t* p) {
    F out;
    for (int i = 0; i < kGroup; ++i) out.lane[i] = static_cast<float>(p[i]);
    return out;
  }
  static F add(F a, const F& b) {
    for (int i = 0; i < kGroup; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static F mul(F a, const F& b) {
    for (int i = 0; i < kGroup; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  static F max(F a, const F& b) {
    for (int i = 0; i < kGroup; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
  }
  static uint32_t greater(const F& a, const F& b) {
    uint32_t mask = 0;
    for (int i = 0; i < kGroup; ++i) mask |= static_cast<uint32_t>(a.lane[i] > b.lane[i]) << i;
    return mask;
  }

  static F16 load_f16(const float* p) { return load(p); }
  static F lookup_f(const F16& table, const uint8_t* indices) {
    F out;
    for (int i = 0; i < kGroup; ++i) out.lane[i] = table.lane[indices[i] & 15];
    return out;
  }

  static Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    __builtin_memcpy(out.byte, p, sizeof(out.byte));
    return out;
  }
  static void store_bytes(uint8_t* p, const Bytes& value) {
    __builtin_memcpy(p, value.byte, sizeof(value.byte));
  }
  template <int kWidth>
  static Bytes field(Bytes value, int shift) {
    for (uint8_t& byte : value.byte) {
      byte = static_cast<uint8_t>(byte >> shift & ((1 << kWidth) - 1));
    }
    return value;
  }
  static Bytes join(Bytes low_two, const Bytes& high) {
    for (int i = 0; i < 16; ++i) {
      low_two.byte[i] = static_cast<uint8_t>(low_two.byte[i] | high.byte[i] << 2);
    }
    return low_two;
  }
  static Table load_table(const uint8_t* p) { return load_bytes(p); }
  static Bytes lookup(const Table& table, Bytes index) {
    for (uint8_t& byte : index.byte) byte = table.byte[byte & 15];
    return index;
  }
};

constexpr Leaf kLeaf = make_leaf<Portable>("portable");

}  // namespace

const Leaf& leaf_portable() { return kLeaf; }

}  // namespace tartan
