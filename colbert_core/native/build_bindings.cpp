// Building an index, for Python.
#include "arrays.hpp"
#include "build_nearest.hpp"

namespace tartan::python {

namespace {

using namespace nb::literals;

class PyNearest {
 public:
  explicit PyNearest(const Array& codes_CD)
      : core_(view<int8_t>("codes_CD", codes_CD, 2, "int8"), codes_CD.shape(1)) {}

  Vector<int32_t> assign(const Array& tokens_TD, int64_t threads) const {
    const auto tokens = view_tokens(tokens_TD);
    const size_t workers = positive("threads", threads);
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
    const size_t workers = positive("threads", threads);
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
}

}  // namespace tartan::python
