// Strings of a column that lies in memory, as Arrow lays them out, made into Python's, many at
// once.
#include <nanobind/stl/vector.h>

#include "arrays.hpp"

namespace tartan::python {

namespace {

using namespace nb::literals;

constexpr size_t kAhead = 16;

// The strings of one record batch: string i lies in data[offsets[i]] … data[offsets[i + 1] - 1].
struct StringBatch {
  std::vector<Array> kept;  // what the spans lie in
  std::span<const int32_t> offsets;
  std::span<const uint8_t> data;
};

// A column in batches of equally many rows, each of which is added when it is first asked for.
class StringColumn {
 public:
  explicit StringColumn(int64_t batch_rows) : batch_rows_(positive("batch_rows", batch_rows)) {}

  void add(size_t number, const Array& offsets, const Array& data) {
    StringBatch batch{{offsets, data},
                      view<int32_t>("offsets", offsets, 1, "int32"),
                      view<uint8_t>("data", data, 1, "uint8")};
    require(!batch.offsets.empty(), "offsets must have an entry more than there are strings");
    if (number >= batches_.size()) batches_.resize(number + 1);
    batches_[number] = std::move(batch);
  }

  nb::object take(const Array& rows_M) const {
    const auto rows = view<int64_t>("rows_M", rows_M, 1, "int64");
    const nb::object strings = nb::steal(PyList_New(static_cast<Py_ssize_t>(rows.size())));
    if (!strings.is_valid()) throw nb::python_error();
    for (size_t i = 0; i < rows.size(); ++i) {
      if (i + 2 * kAhead < rows.size()) prefetch_offset(rows[i + 2 * kAhead]);
      if (i + kAhead < rows.size()) prefetch_string(rows[i + kAhead]);
      const auto bytes = string_at(rows[i]);
      PyObject* const text = PyUnicode_DecodeUTF8(reinterpret_cast<const char*>(bytes.data()),
                                                  static_cast<Py_ssize_t>(bytes.size()), nullptr);
      if (text == nullptr) throw nb::python_error();
      PyList_SET_ITEM(strings.ptr(), static_cast<Py_ssize_t>(i), text);
    }
    return strings;
  }

 private:
  // The batch of a row, or null, and where it stands in there.
  const StringBatch* find(int64_t row, size_t& at) const {
    const size_t number = static_cast<size_t>(row) / batch_rows_;
    at = static_cast<size_t>(row) % batch_rows_;
    if (row < 0 || number >= batches_.size()) return nullptr;
    const StringBatch& batch = batches_[number];
    return at + 1 < batch.offsets.size() ? &batch : nullptr;
  }

  void prefetch_offset(int64_t row) const {
    size_t at = 0;
    if (const StringBatch* batch = find(row, at)) __builtin_prefetch(&batch->offsets[at]);
  }

  void prefetch_string(int64_t row) const {
    size_t at = 0;
    const StringBatch* const batch = find(row, at);
    if (batch == nullptr) return;
    const auto begin = static_cast<size_t>(batch->offsets[at]);
    if (begin < batch->data.size()) __builtin_prefetch(&batch->data[begin]);
  }

  // The bytes of a row's string. Nothing is taken on trust: offsets may be a damaged file's.
  std::span<const uint8_t> string_at(int64_t row) const {
    require(row >= 0, "row " + std::to_string(row) + " must be at least 0");
    size_t at = 0;
    const StringBatch* const batch = find(row, at);
    if (batch == nullptr) {
      const size_t number = static_cast<size_t>(row) / batch_rows_;
      require(number >= batches_.size() || batches_[number].offsets.empty(),
              "row " + std::to_string(row) + " lies beyond its batch");
      PyErr_SetObject(PyExc_KeyError, nb::int_(number).ptr());
      throw nb::python_error();
    }
    const int64_t begin = batch->offsets[at], end = batch->offsets[at + 1];
    if (begin < 0 || end < begin || static_cast<size_t>(end) > batch->data.size()) {
      throw CorruptShard("row " + std::to_string(row) + " spans bytes " + std::to_string(begin) +
                         " to " + std::to_string(end) + " of " +
                         std::to_string(batch->data.size()));
    }
    return batch->data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }

  size_t batch_rows_;
  std::vector<StringBatch> batches_;
};

}  // namespace

void bind_strings(nb::module_& module) {
  nb::class_<StringColumn>(module, "StringColumn")
      .def(nb::init<int64_t>(), "batch_rows"_a)
      .def("add", &StringColumn::add, "number"_a, "offsets"_a.noconvert(), "data"_a.noconvert())
      .def("take", &StringColumn::take, "rows_M"_a.noconvert());
}

}  // namespace tartan::python
