// Building an index, for Python.
#include <nanobind/stl/tuple.h>

#include <algorithm>

#include "arrays.hpp"
#include "build_nearest.hpp"
#include "build_vectors.hpp"

namespace tartan::python {

namespace {

using namespace nb::literals;

constexpr size_t kMostThreads = 1024;

size_t thread_count(int64_t threads) {
  return std::min(positive("threads", threads), kMostThreads);
}

class PyNearest {
 public:
  explicit PyNearest(const Array& codes_CD)
      : core_([&] {
          const auto codes = view<int8_t>("codes_CD", codes_CD, 2, "int8");
          return NearestCentroid(codes, codes_CD.shape(1));
        }()) {}

  Vector<int32_t> assign(const Array& tokens_TD, int64_t threads) const {
    const auto tokens = view_tokens(tokens_TD);
    const size_t workers = thread_count(threads);
    auto codes = new_vector<int32_t>(tokens_TD.shape(0));
    without_gil([&] { core_.assign(tokens, workers, codes.data()); });
    return codes;
  }

  Vector<int32_t> assign_among(const Array& tokens_TD, const Array& order_T, const Array& starts_G1,
                               const Array& runs_GM, int64_t threads) const {
    const auto tokens = view_tokens(tokens_TD);
    const TokenGroups groups{view<int32_t>("order_T", order_T, 1, "int32"),
                             view<int64_t>("starts_G1", starts_G1, 1, "int64"),
                             view<int32_t>("runs_GM", runs_GM, 2, "int32")};
    require(runs_GM.shape(0) + 1 == starts_G1.shape(0),
            "runs_GM must have one row for each group of starts_G1");
    const size_t workers = thread_count(threads);
    auto codes = new_vector<int32_t>(tokens_TD.shape(0));
    without_gil([&] { core_.assign_among(tokens, groups, workers, codes.data()); });
    return codes;
  }

  const NearestCentroid& core() const { return core_; }

 private:
  std::span<const int8_t> view_tokens(const Array& tokens_TD) const {
    const auto tokens = view<int8_t>("tokens_TD", tokens_TD, 2, "int8");
    require(tokens_TD.shape(1) == core_.dim(),
            "tokens_TD has dimension " + std::to_string(tokens_TD.shape(1)) +
                ", the centroids have " + std::to_string(core_.dim()));
    return tokens;
  }

  NearestCentroid core_;
};

using Rows = std::tuple<Matrix<int8_t>, Vector<float>>;
using Residuals = std::tuple<Matrix<uint8_t>, Vector<uint8_t>>;

size_t dimension(const Array& matrix) {
  const size_t dim = matrix.shape(1);
  require(dim >= 1 && dim <= kMaxDim,
          "dimension " + std::to_string(dim) + " must lie between 1 and 1024");
  return dim;
}

Rows to_int8_rows(const Array& vectors_TD, int64_t threads) {
  const auto vectors = view<float>("vectors_TD", vectors_TD, 2, "float32");
  const size_t workers = thread_count(threads);
  const size_t dim = dimension(vectors_TD);
  auto values = new_matrix<int8_t>(vectors_TD.shape(0), dim);
  auto scales = new_vector<float>(vectors_TD.shape(0));
  without_gil([&] { to_int8(vectors, dim, workers, values.data(), scales.data()); });
  return {values, scales};
}

Matrix<float> rotate_vectors(const Array& vectors_TD, const Array& rotation_DD, int64_t threads) {
  const auto vectors = view<float>("vectors_TD", vectors_TD, 2, "float32");
  const auto rotation = view<float>("rotation_DD", rotation_DD, 2, "float32");
  const size_t workers = thread_count(threads);
  const size_t dim = dimension(rotation_DD);
  require(rotation_DD.shape(0) == dim, "rotation_DD must be square");
  require(vectors_TD.shape(1) == dim, "vectors_TD has dimension " +
                                          std::to_string(vectors_TD.shape(1)) +
                                          ", the rotation has " + std::to_string(dim));
  auto rotated = new_matrix<float>(vectors_TD.shape(0), dim);
  without_gil([&] { rotate(vectors, rotation, dim, workers, rotated.data()); });
  return rotated;
}

using Sums = nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void add_to_sums(const Array& values_SD, const Array& weights_S, const Array& codes_S,
                 const Sums& sums_CD, int64_t threads) {
  const auto values = view<int8_t>("values_SD", values_SD, 2, "int8");
  const auto weights = view<int32_t>("weights_S", weights_S, 1, "int32");
  const auto codes = view<int32_t>("codes_S", codes_S, 1, "int32");
  const size_t workers = thread_count(threads);
  const size_t dim = dimension(values_SD);
  require(weights.size() == values_SD.shape(0) && codes.size() == values_SD.shape(0),
          "weights_S and codes_S must have one entry for each row of values_SD");
  require(sums_CD.shape(0) >= 1 && sums_CD.shape(1) == dim,
          "sums_CD must have a row for each centroid, of " + std::to_string(dim) + " dimensions");
  without_gil(
      [&] { add_rows(values, weights, codes, dim, sums_CD.shape(0), workers, sums_CD.data()); });
}

const float* sized(const char* name, const Array& array, size_t size) {
  const auto values = view<float>(name, array, 1, "float32");
  require(values.size() == size, std::string(name) + " has " + std::to_string(values.size()) +
                                     " entries, expected " + std::to_string(size));
  return values.data();
}

Matrix<uint8_t> room_for_bits(const char* name, const Array& rows_TD, int bits) {
  view<float>(name, rows_TD, 2, "float32");
  require(bits >= 1 && bits <= 4, "bits " + std::to_string(bits) + " must be 1, 2, 3 or 4");
  return new_matrix<uint8_t>(rows_TD.shape(0), rows_TD.shape(1) * static_cast<size_t>(bits) / 8);
}

Matrix<uint8_t> bits_along_trellis(const Array& values_TD, int bits, const Array& levels_W,
                                   int64_t threads) {
  auto packed = room_for_bits("values_TD", values_TD, bits);
  const TrellisValues trellis{view<float>("values_TD", values_TD, 2, "float32").data(),
                              sized("levels_W", levels_W, kTrellisLevels),
                              bits,
                              values_TD.shape(0),
                              values_TD.shape(1),
                              packed.data()};
  const size_t workers = thread_count(threads);
  without_gil([&] { best_bits(trellis, workers); });
  return packed;
}

// The arrays of `quantise_*`, checked; what they return is allocated here.
class Quantising {
 public:
  Quantising(const Array& vectors_TD, const Array& codes_T, const Array& centroids_CD, int bits)
      : packed_(room_for_bits("vectors_TD", vectors_TD, bits)),
        scales_(new_vector<uint8_t>(vectors_TD.shape(0))) {
    const auto vectors = view<float>("vectors_TD", vectors_TD, 2, "float32");
    const auto codes = view<int32_t>("codes_T", codes_T, 1, "int32");
    const auto centroids = view<float>("centroids_CD", centroids_CD, 2, "float32");
    require(codes.size() == vectors_TD.shape(0), "codes_T must have one entry for each vector");
    require(centroids_CD.shape(1) == vectors_TD.shape(1),
            "vectors_TD and centroids_CD must have the same dimension");
    tokens_ = {vectors.data(),      codes.data(),   centroids.data(), vectors_TD.shape(0),
               vectors_TD.shape(1), packed_.data(), scales_.data()};
    centroids_ = centroids_CD.shape(0);
  }

  template <class Tables>
  Residuals by(void (*kernel)(QuantiseTokens, size_t, const Tables&, size_t), const Tables& tables,
               int64_t threads) {
    const size_t workers = thread_count(threads);
    without_gil([&] { kernel(tokens_, centroids_, tables, workers); });
    return {packed_, scales_};
  }

 private:
  Matrix<uint8_t> packed_;
  Vector<uint8_t> scales_;
  QuantiseTokens tokens_;
  size_t centroids_;
};

Residuals tartan_residuals(const Array& vectors_TD, const Array& codes_T, const Array& centroids_CD,
                           int bits, const Array& levels, const Array& ratio_steps,
                           const Array& gain_steps, int64_t threads) {
  Quantising work(vectors_TD, codes_T, centroids_CD, bits);
  const TartanTables tables{bits, sized("levels", levels, kTrellisLevels),
                            sized("ratio_steps", ratio_steps, kRatios),
                            sized("gain_steps", gain_steps, kGains)};
  return work.by(quantise_tartan, tables, threads);
}

Residuals colbertv2_residuals(const Array& vectors_TD, const Array& codes_T,
                              const Array& centroids_CD, int bits, const Array& levels,
                              const Array& cutoffs, float lowest, float steps, int64_t threads) {
  Quantising work(vectors_TD, codes_T, centroids_CD, bits);
  const size_t count = size_t{1} << bits;
  const ColbertTables tables{bits, sized("levels", levels, count),
                             sized("cutoffs", cutoffs, count - 1), lowest, steps};
  return work.by(quantise_colbertv2, tables, threads);
}

}  // namespace

void bind_build(nb::module_& module) {
  nb::class_<PyNearest>(module, "NearestCentroid")
      .def(nb::init<const Array&>(), "codes_CD"_a.noconvert())
      .def("assign", &PyNearest::assign, "tokens_TD"_a.noconvert(), "threads"_a = 1)
      .def("assign_among", &PyNearest::assign_among, "tokens_TD"_a.noconvert(),
           "order_T"_a.noconvert(), "starts_G1"_a.noconvert(), "runs_GM"_a.noconvert(),
           "threads"_a = 1)
      .def_prop_ro("centroids", [](const PyNearest& self) { return self.core().centroids(); })
      .def_prop_ro("dim", [](const PyNearest& self) { return self.core().dim(); });
  module.attr("RUN") = kRun;
  module.def("to_int8", &to_int8_rows, "vectors_TD"_a.noconvert(), "threads"_a = 1);
  module.def("rotate", &rotate_vectors, "vectors_TD"_a.noconvert(), "rotation_DD"_a.noconvert(),
             "threads"_a = 1);
  module.def("add_rows", &add_to_sums, "values_SD"_a.noconvert(), "weights_S"_a.noconvert(),
             "codes_S"_a.noconvert(), "sums_CD"_a.noconvert(), "threads"_a = 1);
  module.def("best_bits", &bits_along_trellis, "values_TD"_a.noconvert(), "bits"_a,
             "levels_W"_a.noconvert(), "threads"_a = 1);
  module.def("quantise_tartan", &tartan_residuals, "vectors_TD"_a.noconvert(),
             "codes_T"_a.noconvert(), "centroids_CD"_a.noconvert(), "bits"_a,
             "levels"_a.noconvert(), "ratio_steps"_a.noconvert(), "gain_steps"_a.noconvert(),
             "threads"_a = 1);
  module.def("quantise_colbertv2", &colbertv2_residuals, "vectors_TD"_a.noconvert(),
             "codes_T"_a.noconvert(), "centroids_CD"_a.noconvert(), "bits"_a,
             "levels"_a.noconvert(), "cutoffs"_a.noconvert(), "lowest"_a, "steps"_a,
             "threads"_a = 1);
}

}  // namespace tartan::python
