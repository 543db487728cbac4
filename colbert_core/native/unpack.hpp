// Unpacks residual bits into one byte per dimension: windows of the trellis through a table of 64
// entries, which a vector class looks up as best it can (V::windows), and planes through one of 16.
//
// Included by leaf_kernels.hpp only. V::Bytes holds V::kBytes bytes. Where a plane is shorter than
// that, a store writes too far and the store of the next field, which lies behind, puts it right;
// what is left behind the last dimension is slack. Reads may go too far in the same way.
#pragma once

namespace tartan {
namespace {

// out[i + j·n] = table[field j of packed[i]], fields of kWidth bits, for the plane's n bytes.
template <class V, int kWidth>
inline void unpack_plane(const uint8_t* packed, size_t n, typename V::Table table, uint8_t* out) {
  constexpr int kFields = 8 / kWidth;
  for (size_t i = 0; i < n; i += V::kBytes) {
    const size_t at = n < V::kBytes ? 0 : (i + V::kBytes <= n ? i : n - V::kBytes);
    const typename V::Bytes bytes = V::load_bytes(packed + at);
#pragma GCC unroll 8
    for (int j = 0; j < kFields; ++j) {
      const typename V::Bytes index = V::template field<kWidth>(bytes, j * kWidth);
      V::store_bytes(out + j * n + at, V::lookup(table, index));
    }
  }
}

// 3 bits: a plane of the low two bits (fields of D/4 bytes), then one of the high bit (D/8).
template <class V>
inline void unpack_three(const uint8_t* packed, size_t dim, typename V::Table table, uint8_t* out) {
  const size_t n = dim / 8;
  const uint8_t* const high = packed + 2 * n;
  for (size_t i = 0; i < n; i += V::kBytes) {
    const size_t at = n < V::kBytes ? 0 : (i + V::kBytes <= n ? i : n - V::kBytes);
    const typename V::Bytes high_bytes = V::load_bytes(high + at);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const typename V::Bytes low_bytes = V::load_bytes(packed + (j & 1) * n + at);
      const typename V::Bytes index = V::join(V::template field<2>(low_bytes, (j >> 1) * 2),
                                              V::template field<1>(high_bytes, j));
      V::store_bytes(out + j * n + at, V::lookup(table, index));
    }
  }
}

// out[d] = table[window of dimension d].
template <class V>
inline void unpack_windows(const uint8_t* packed, int bits, size_t dim,
                           const typename V::Windows& table, uint8_t* out) {
  switch (bits) {
    case 1:
      return V::template windows<1>(packed, dim, table, out);
    case 2:
      return V::template windows<2>(packed, dim, table, out);
    case 3:
      return V::template windows<3>(packed, dim, table, out);
    default:
      return V::template windows<4>(packed, dim, table, out);
  }
}

// The packed bytes of a token; a copy in `spare` where reading too far would leave the array.
inline const uint8_t* packed_token(const uint8_t* packed, const uint8_t* end, size_t bytes,
                                   uint8_t* spare) {
  if (static_cast<size_t>(end - packed) >= bytes + kUnpackSlack) return packed;
  __builtin_memcpy(spare, packed, bytes);
  return spare;
}

// The rows of `count` tokens whose packed bytes lie side by side, `stride` bytes apart; `spare` as
// of `packed_token`. (Bytes may alias anything: what the loop needs is copied out of structures.)
template <class V>
inline void unpack_rows(const uint8_t* packed, int count, const uint8_t* end, int bits, size_t dim,
                        typename V::Windows table, uint8_t* out, size_t stride, uint8_t* spare) {
  const size_t bytes = dim * static_cast<size_t>(bits) / 8;
  const auto each = [&](const auto& unpack) {
    for (int r = 0; r < count; ++r, packed += bytes, out += stride) {
      unpack(packed_token(packed, end, bytes, spare), out);
    }
  };
  switch (bits) {
    case 1:
      return each([&](auto* from, auto* to) { V::template windows<1>(from, dim, table, to); });
    case 2:
      return each([&](auto* from, auto* to) { V::template windows<2>(from, dim, table, to); });
    case 3:
      return each([&](auto* from, auto* to) { V::template windows<3>(from, dim, table, to); });
    default:
      return each([&](auto* from, auto* to) { V::template windows<4>(from, dim, table, to); });
  }
}

// Where the window of dimension j begins, in bits from the byte before dimension 0's first.
inline constexpr int window_at(int bits, int j) { return 8 + bits * (j + 1) - kTrellisWindow; }

template <class V>
inline void unpack_planes(const uint8_t* packed, int bits, size_t dim, typename V::Table table,
                          uint8_t* out) {
  switch (bits) {
    case 1:
      return unpack_plane<V, 1>(packed, dim / 8, table, out);
    case 2:
      return unpack_plane<V, 2>(packed, dim / 4, table, out);
    case 3:
      return unpack_three<V>(packed, dim, table, out);
    default:
      return unpack_plane<V, 4>(packed, dim / 2, table, out);
  }
}

}  // namespace
}  // namespace tartan
