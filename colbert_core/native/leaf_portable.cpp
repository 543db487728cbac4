// Any processor: vectors of 4 lanes in the compiler's own vector types (SSE2, NEON, or plain code).
//
// Bytes are multiplied as int16: |q · v| ≤ 127 · 128 = 16256, and the sum of two such products,
// 32512, still fits, so four dimensions take two multiplications before they are widened.
#include "leaf_kernels.hpp"

namespace tartan {
namespace {

constexpr int kParts = kGroup / 4;

typedef int32_t Int4 __attribute__((vector_size(16)));
typedef int16_t Short8 __attribute__((vector_size(16)));
typedef uint16_t UShort8 __attribute__((vector_size(16)));
typedef uint32_t UInt4 __attribute__((vector_size(16)));
typedef float Float4 __attribute__((vector_size(16)));
typedef uint8_t Byte16 __attribute__((vector_size(16)));

struct Portable {
  struct I {
    Int4 part[kParts];
  };
  struct F {
    Float4 part[kParts];
  };
  struct Quads {
    Short8 even[kParts], odd[kParts];  // dimensions 0, 2 and 1, 3 of every lane
  };
  struct Row {
    Short8 even, odd;
  };
  struct F16 {
    float entry[16];
  };
  using Bytes = Byte16;
  using Table = Byte16;
  struct Windows {
    uint8_t entry[kTrellisLevels];
  };
  static constexpr int kLanes = 16;
  static constexpr int kBias = 0;
  static constexpr bool kScansRows = false;
  static constexpr bool kTwoQuads = false;
  static constexpr size_t kBytes = 16;
  template <int G>
  static constexpr int kTile = 2;

  static I splat_i(int32_t value) {
    I out;
    for (Int4& part : out.part) part = Int4{value, value, value, value};
    return out;
  }
  static I bias_correction(const int32_t*) { return splat_i(0); }
  static int query_bias(const QueryPlane&) { return 0; }

  template <bool kLevels>
  static const uint8_t* query_side(const QueryPlane& plane) {
    return reinterpret_cast<const uint8_t*>(plane.i8);
  }
  // The low and the high signed byte of every int16; the layout of bytes is little-endian's.
  static Short8 low_bytes(Short8 value) { return Short8(UShort8(value) << 8) >> 8; }
  static Short8 high_bytes(Short8 value) { return value >> 8; }
  static Quads load_quads(const uint8_t* p) {
    Quads out;
    for (int i = 0; i < kParts; ++i) {
      Short8 pairs;
      __builtin_memcpy(&pairs, p + 16 * i, 16);
      out.even[i] = low_bytes(pairs);
      out.odd[i] = high_bytes(pairs);
    }
    return out;
  }
  static Row load_row(const uint8_t* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, 4);
    const Short8 pairs = Short8(Int4{quad, quad, quad, quad});
    return {low_bytes(pairs), high_bytes(pairs)};
  }
  template <bool kLevels>
  static I dot(I acc, const Quads& q, const Row& row) {
    for (int i = 0; i < kParts; ++i) {
      const Int4 sums = Int4(q.even[i] * row.even + q.odd[i] * row.odd);
      acc.part[i] += (Int4(UInt4(sums) << 16) >> 16) + (sums >> 16);
    }
    return acc;
  }

  static F splat(float value) {
    F out;
    for (Float4& part : out.part) part = Float4{value, value, value, value};
    return out;
  }
  static F load(const float* p) {
    F out;
    __builtin_memcpy(out.part, p, sizeof(out.part));
    return out;
  }
  static void store(float* p, const F& value) {
    __builtin_memcpy(p, value.part, sizeof(value.part));
  }
  // Rounded to the nearest, ties to even, by pushing what is below 1 off the mantissa.
  static void store_i16(int16_t* p, const F& value) {
    for (int i = 0; i < kParts; ++i) {
      const Float4 rounded = (value.part[i] + 12582912.0f) - 12582912.0f;
      for (int lane = 0; lane < 4; ++lane) p[4 * i + lane] = static_cast<int16_t>(rounded[lane]);
    }
  }
  static F to_float(const I& value) {
    F out;
    for (int i = 0; i < kParts; ++i) out.part[i] = __builtin_convertvector(value.part[i], Float4);
    return out;
  }
  static F widen(const int8_t* p) {
    float values[kGroup];
    for (int i = 0; i < kGroup; ++i) values[i] = static_cast<float>(p[i]);
    return load(values);
  }
  static F add(F a, const F& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] += b.part[i];
    return a;
  }
  static F mul(F a, const F& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] *= b.part[i];
    return a;
  }
  static F max(F a, const F& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return a;
  }
  static F min(F a, const F& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
    return a;
  }
  static uint32_t greater(const F& a, const F& b) {
    constexpr Int4 kLanes = {1, 2, 4, 8};
    uint32_t mask = 0;
    for (int i = 0; i < kParts; ++i) {
      const Int4 lanes = (a.part[i] > b.part[i]) & kLanes;
      mask |= static_cast<uint32_t>(lanes[0] | lanes[1] | lanes[2] | lanes[3]) << (4 * i);
    }
    return mask;
  }

  static F16 load_f16(const float* p) {
    F16 out;
    __builtin_memcpy(out.entry, p, sizeof(out.entry));
    return out;
  }
  static F lookup_f(const F16& table, const uint8_t* indices) {
    float values[kGroup];
    for (int i = 0; i < kGroup; ++i) values[i] = table.entry[indices[i] & 15];
    return load(values);
  }

  static Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    __builtin_memcpy(&out, p, sizeof(out));
    return out;
  }
  static void store_bytes(uint8_t* p, Bytes value) { __builtin_memcpy(p, &value, sizeof(value)); }
  template <int kWidth>
  static Bytes field(Bytes value, int shift) {
    return value >> static_cast<uint8_t>(shift) & static_cast<uint8_t>((1 << kWidth) - 1);
  }
  static Bytes join(Bytes low_two, Bytes high) { return low_two | high << 2; }
  static Table load_table(const uint8_t* p) { return load_bytes(p); }
  static Bytes lookup(Table table, Bytes index) {
    uint8_t entries[16], bytes[16];
    store_bytes(entries, table);
    store_bytes(bytes, index);
    for (uint8_t& byte : bytes) byte = entries[byte & 15];
    return load_bytes(bytes);
  }

  static Windows load_windows(const uint8_t* p) {
    Windows table;
    __builtin_memcpy(table.entry, p, sizeof(table.entry));
    return table;
  }
  // Eight dimensions fill whole bytes.
  template <int kBits>
  static void windows(const uint8_t* packed, size_t dim, const Windows& table, uint8_t* out) {
    uint32_t window = 0;
    for (size_t d = 0; d < dim; d += 8, packed += kBits) {
      uint32_t string = 0;
      for (int i = 0; i < kBits; ++i) string |= static_cast<uint32_t>(packed[i]) << (8 * i);
      for (int j = 0; j < 8; ++j) {
        const uint32_t own = string >> (kBits * j) & ((1u << kBits) - 1);
        window = window >> kBits | own << (kTrellisWindow - kBits);
        out[d + j] = table.entry[window];
      }
    }
  }
};

constexpr Leaf kLeaf = make_leaf<Portable>("portable");

}  // namespace

const Leaf& leaf_portable() { return kLeaf; }

}  // namespace tartan
