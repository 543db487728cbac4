// NEON with the dot product instructions of ARMv8.2 (sdot), which Graviton 2, Ampere Altra, Apple
// M1 and what came after them have. 16 lanes are four registers; a multiplication adds the products
// of four neighbouring dimensions, signed by signed, in one instruction for four lanes. A table of
// 64 bytes is looked up in one instruction too, which is what the trellis' windows want.
#include <arm_neon.h>

#include "leaf_kernels.hpp"

namespace tartan {
namespace {

struct Neon {
  struct I {
    int32x4_t part[4];
  };
  struct F {
    float32x4_t part[4];
  };
  struct Quads {
    int8x16_t part[4];
  };
  using Row = int8x16_t;
  using F16 = uint8x16x4_t;
  using Bytes = uint8x16_t;
  using Table = uint8x16_t;
  using Windows = uint8x16x4_t;
  static constexpr int kLanes = 16;
  static constexpr int kBias = 0;
  static constexpr bool kScansRows = false;
  static constexpr bool kTwoQuads = false;
  static constexpr size_t kBytes = 16;
  template <int G>
  static constexpr int kTile = 4 / G;

  static I splat_i(int32_t value) {
    return each<I>([=](int) { return vdupq_n_s32(value); });
  }
  static I bias_correction(const int32_t*) { return splat_i(0); }
  static int query_bias(const QueryPlane&) { return 0; }

  template <bool kLevels>
  static const uint8_t* query_side(const QueryPlane& plane) {
    return reinterpret_cast<const uint8_t*>(plane.i8);
  }
  static Quads load_quads(const uint8_t* p) {
    return each<Quads>([=](int i) { return vreinterpretq_s8_u8(vld1q_u8(p + 16 * i)); });
  }
  static Row load_row(const uint8_t* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(quad));
  }
  template <bool kLevels>
  static I dot(I acc, Quads q, Row row) {
    return each<I>([&](int i) { return vdotq_s32(acc.part[i], q.part[i], row); });
  }

  static F splat(float value) {
    return each<F>([=](int) { return vdupq_n_f32(value); });
  }
  static F load(const float* p) {
    return each<F>([=](int i) { return vld1q_f32(p + 4 * i); });
  }
  static void store(float* p, F value) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, value.part[i]);
  }
  static void store_i16(int16_t* p, F value) {
    const auto rounded = [&](int i) { return vqmovn_s32(vcvtnq_s32_f32(value.part[i])); };
    vst1q_s16(p, vcombine_s16(rounded(0), rounded(1)));
    vst1q_s16(p + 8, vcombine_s16(rounded(2), rounded(3)));
  }
  static F to_float(I value) {
    return each<F>([&](int i) { return vcvtq_f32_s32(value.part[i]); });
  }
  static F widen(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return to_float({vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                     vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))});
  }
  static F add(F a, F b) {
    return each<F>([&](int i) { return vaddq_f32(a.part[i], b.part[i]); });
  }
  static F mul(F a, F b) {
    return each<F>([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
  }
  // As the other paths choose between zeros of both signs, which fmax and fmin do not.
  static F max(F a, F b) {
    return each<F>(
        [&](int i) { return vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]); });
  }
  static F min(F a, F b) {
    return each<F>(
        [&](int i) { return vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]); });
  }
  static uint32_t greater(F a, F b) {
    const auto above = [&](int i) { return vcgtq_f32(a.part[i], b.part[i]); };
    const uint16x8_t low = vcombine_u16(vmovn_u32(above(0)), vmovn_u32(above(1)));
    const uint16x8_t high = vcombine_u16(vmovn_u32(above(2)), vmovn_u32(above(3)));
    alignas(8) static constexpr uint8_t kLanes[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x8_t lanes = vld1_u8(kLanes);
    return vaddv_u8(vand_u8(vmovn_u16(low), lanes)) |
           static_cast<uint32_t>(vaddv_u8(vand_u8(vmovn_u16(high), lanes))) << 8;
  }

  // 16 floats are 64 bytes: four look-ups of one byte each.
  static F16 load_f16(const float* p) { return load_windows(reinterpret_cast<const uint8_t*>(p)); }
  static F lookup_f(const F16& table, const uint8_t* indices) {
    const uint8x16_t firsts = vshlq_n_u8(vld1q_u8(indices), 2);
    const uint8x16_t bytes = vreinterpretq_u8_u32(vdupq_n_u32(0x03020100));
    return each<F>([&](int i) {
      const uint8x16_t four_times = vaddq_u8(vld1q_u8(kFourTimes), vdupq_n_u8(4 * i));
      const uint8x16_t places = vaddq_u8(vqtbl1q_u8(firsts, four_times), bytes);
      return vreinterpretq_f32_u8(vqtbl4q_u8(table, places));
    });
  }

  static Bytes load_bytes(const uint8_t* p) { return vld1q_u8(p); }
  static void store_bytes(uint8_t* p, Bytes value) { vst1q_u8(p, value); }
  template <int kWidth>
  static Bytes field(Bytes value, int shift) {
    const uint8x16_t down = vshlq_u8(value, vdupq_n_s8(static_cast<int8_t>(-shift)));
    return vandq_u8(down, vdupq_n_u8((1 << kWidth) - 1));
  }
  static Bytes join(Bytes low_two, Bytes high) { return vorrq_u8(low_two, vshlq_n_u8(high, 2)); }
  static Table load_table(const uint8_t* p) { return vld1q_u8(p); }
  static Bytes lookup(Table table, Bytes index) { return vqtbl1q_u8(table, index); }

  static Windows load_windows(const uint8_t* p) {
    return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
  }
  // 16 dimensions at a time: the two bytes that hold a window, shifted down to it.
  template <int kBits>
  static void windows(const uint8_t* packed, size_t dim, const Windows& table, uint8_t* out) {
    static constexpr Pairs kFirst(kBits, 0), kLast(kBits, 8);
    const uint8x16_t first_bytes = vld1q_u8(kFirst.bytes), last_bytes = vld1q_u8(kLast.bytes);
    const int16x8_t first_down = vld1q_s16(kFirst.down), last_down = vld1q_s16(kLast.down);
    for (size_t d = 0; d < dim; d += 16) {
      const uint8_t* const at = packed + d / 8 * kBits;
      const uint8x16_t bytes = d > 0 ? vld1q_u8(at - 1) : vextq_u8(vdupq_n_u8(0), vld1q_u8(at), 15);
      const auto window_of = [&](uint8x16_t pair, int16x8_t down) {
        return vmovn_u16(vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(bytes, pair)), down));
      };
      const uint8x16_t index =
          vcombine_u8(window_of(first_bytes, first_down), window_of(last_bytes, last_down));
      vst1q_u8(out + d, vqtbl4q_u8(table, vandq_u8(index, vdupq_n_u8(kTrellisLevels - 1))));
    }
  }

 private:
  template <class T, class Op>
  static T each(const Op& op) {
    return {{op(0), op(1), op(2), op(3)}};
  }

  alignas(16) static constexpr uint8_t kFourTimes[16] = {0, 0, 0, 0, 1, 1, 1, 1,
                                                         2, 2, 2, 2, 3, 3, 3, 3};

  // For eight dimensions, the two bytes that each is taken from and how far they are shifted.
  struct Pairs {
    alignas(16) uint8_t bytes[16] = {};
    alignas(16) int16_t down[8] = {};

    constexpr Pairs(int bits, int first) {
      for (int i = 0; i < 8; ++i) {
        const int at = window_at(bits, first + i);
        bytes[2 * i] = static_cast<uint8_t>(at / 8);
        bytes[2 * i + 1] = static_cast<uint8_t>(at / 8 + 1);
        down[i] = static_cast<int16_t>(-(at % 8));
      }
    }
  };
};

constexpr Leaf kLeaf = make_leaf<Neon>("neon");

}  // namespace

const Leaf& leaf_neon() { return kLeaf; }

}  // namespace tartan
