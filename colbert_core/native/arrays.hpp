// Arrays between Python and the core: checked on the way in, owned by numpy on the way out.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <span>
#include <string>

#include "common.hpp"

namespace tartan::python {

namespace nb = nanobind;

using Array = nb::ndarray<nb::ro, nb::device::cpu>;

inline bool is_contiguous(const Array& array) {
  int64_t expected = 1;
  if (array.size() == 0) return true;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

template <class T>
bool holds(const Array& array) {
  return array.dtype() == nb::dtype<T>();
}

inline void require_layout(const char* name, const Array& array, size_t ndim, bool dtype_fits,
                           const char* dtypes, size_t alignment) {
  require(dtype_fits && array.ndim() == ndim && is_contiguous(array) &&
              reinterpret_cast<uintptr_t>(array.data()) % alignment == 0,
          std::string(name) + " must be a C-contiguous " + dtypes + " array of " +
              std::to_string(ndim) + " dimension(s)");
}

template <class T>
std::span<const T> view(const char* name, const Array& array, size_t ndim, const char* dtype) {
  require_layout(name, array, ndim, holds<T>(array), dtype, alignof(T));
  return {static_cast<const T*>(array.data()), array.size()};
}

inline size_t positive(const char* name, int64_t value) {
  require(value >= 1, std::string(name) + " " + std::to_string(value) + " must be at least 1");
  return static_cast<size_t>(value);
}

template <class T>
using Vector = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <class T>
using Matrix = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <class T>
nb::capsule owner_of(T* data) {
  return nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
}

template <class T>
Vector<T> new_vector(size_t size) {
  T* const data = new T[size]();
  return Vector<T>(data, {size}, owner_of(data));
}

template <class T>
Matrix<T> new_matrix(size_t rows, size_t columns) {
  T* const data = new T[rows * columns]();
  return Matrix<T>(data, {rows, columns}, owner_of(data));
}

template <class Call>
auto without_gil(const Call& call) {
  const nb::gil_scoped_release released;
  return call();
}

// Classes and functions for building an index; build_bindings.cpp.
void bind_build(nb::module_& module);
// Strings that lie in memory; strings.cpp.
void bind_strings(nb::module_& module);

}  // namespace tartan::python
