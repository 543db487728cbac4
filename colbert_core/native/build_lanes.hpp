// Sixteen floats in one, two or four registers of kBytes.
//
// Included by the sources of single paths only. A sum over dimensions is 16 strided parts (d mod
// 16), each by ascending d, added in halves: the order in which colbert_core/reference/residuals.py
// sums. Products are rounded before they are added.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tartan {
namespace {

constexpr size_t kLanes = 16;

inline constexpr size_t whole_lanes(size_t dim) { return (dim + kLanes - 1) / kLanes * kLanes; }

template <size_t kBytes>
struct Floats {
  typedef float Part __attribute__((vector_size(kBytes)));
  typedef int32_t Ints __attribute__((vector_size(kBytes)));
  typedef uint8_t Bytes __attribute__((vector_size(kBytes / sizeof(float))));
  static constexpr size_t kParts = kLanes * sizeof(float) / kBytes;
  static constexpr size_t kPartLanes = kBytes / sizeof(float);
  Part parts[kParts];

  static Floats load(const float* p) {
    Floats value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
  }
  static Floats splat(float x) {
    Floats value;
    for (Part& part : value.parts) part = x - Part{};
    return value;
  }
  void store(float* p) const { __builtin_memcpy(p, this, sizeof *this); }

  template <class Op>
  static Floats of(const Floats& a, const Floats& b, const Op& op) {
    Floats value;
    for (size_t i = 0; i < kParts; ++i) value.parts[i] = op(a.parts[i], b.parts[i]);
    return value;
  }
  friend Floats operator+(const Floats& a, const Floats& b) {
    return of(a, b, [](Part x, Part y) { return x + y; });
  }
  friend Floats operator-(const Floats& a, const Floats& b) {
    return of(a, b, [](Part x, Part y) { return x - y; });
  }
  friend Floats operator*(const Floats& a, const Floats& b) {
    return of(a, b, [](Part x, Part y) { return x * y; });
  }

  float sum() const {
    float lanes[kLanes];
    store(lanes);
    for (size_t half = kLanes / 2; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
};

}  // namespace
}  // namespace tartan
