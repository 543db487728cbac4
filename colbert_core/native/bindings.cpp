// Search for Python: checks arrays, keeps them alive, releases the GIL, returns arrays.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "cpu.hpp"
#include "leaf.hpp"
#include "shard.hpp"
#include "table.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace tartan::python;
using tartan::require;

namespace {

// ---------------------------------------------------------------- arrays in

std::span<const uint8_t> view_bytes(const char* name, const Array& array) {
  return view<uint8_t>(name, array, 1, "uint8");
}

std::span<const float> view_query(const Array& Q_LD, size_t dim) {
  const auto query = view<float>("Q_LD", Q_LD, 2, "float32");
  tartan::require_query_tokens(Q_LD.shape(0));
  require(Q_LD.shape(1) == dim, "the query has dimension " + std::to_string(Q_LD.shape(1)) +
                                    ", the index has " + std::to_string(dim));
  return query;
}

constexpr float kMostSpread = 1e6f;

void require_margin(float margin) { require(margin >= 0, "margin must be a number of at least 0"); }

tartan::Probes view_probes(const Array& ids_LP, const Array& scores_LP, size_t tokens) {
  tartan::Probes probes;
  probes.ids_LP = view<int32_t>("probe_ids_LP", ids_LP, 2, "int32");
  probes.scores_LP = view<float>("probe_scores_LP", scores_LP, 2, "float32");
  probes.per_token = ids_LP.shape(1);
  require(ids_LP.shape(0) == tokens && scores_LP.shape(0) == tokens &&
              scores_LP.shape(1) == probes.per_token,
          "probe arrays must have shape (" + std::to_string(tokens) + ", P) with P at least 1");
  return probes;
}

tartan::Shard::Allowed view_allowed(const std::optional<Array>& allowed_N) {
  if (!allowed_N) return std::nullopt;
  return view<uint8_t>("allowed_N", *allowed_N, 1, "uint8");
}

// ---------------------------------------------------------------- arrays out

using HitArrays = std::tuple<Vector<int64_t>, Vector<float>, size_t, size_t>;

HitArrays to_arrays(const tartan::Hits& hits) {
  auto pids = new_vector<int64_t>(hits.pids.size());
  auto scores = new_vector<float>(hits.scores.size());
  std::copy(hits.pids.begin(), hits.pids.end(), pids.data());
  std::copy(hits.scores.begin(), hits.scores.end(), scores.data());
  return {pids, scores, hits.touched, hits.scored};
}

// ---------------------------------------------------------------- classes

class Table {
 public:
  Table(const Array& codes_CD, const Array& scales_C) : scales_(scales_C), table_(make(codes_CD)) {}

  const tartan::CentroidTable& core() const { return table_; }

  std::tuple<Matrix<int32_t>, Matrix<float>> probe(const Array& Q_LD, int64_t nprobe,
                                                   int64_t threads, bool keep_rows) const {
    const auto values = view_query(Q_LD, table_.dim());
    const size_t wanted = positive("nprobe", nprobe);
    const size_t workers = positive("threads", threads);
    auto pack = packs_.borrow();
    pack->pack(values, table_.dim());
    const size_t kept = std::min(wanted, table_.centroids());
    auto ids = new_matrix<int32_t>(pack->tokens(), kept);
    auto scores = new_matrix<float>(pack->tokens(), kept);
    {
      const nb::gil_scoped_release released;
      table_.probe(*pack, wanted, workers, keep_rows, ids.data(), scores.data());
    }
    return {ids, scores};
  }

 private:
  tartan::CentroidTable make(const Array& codes_CD) const {
    const auto codes = view<int8_t>("codes_CD", codes_CD, 2, "int8");
    const auto scales = view<float>("scales_C", scales_, 1, "float32");
    return tartan::CentroidTable(codes, codes_CD.shape(1), scales);
  }

  Array scales_;  // kept alive
  tartan::CentroidTable table_;
  mutable tartan::Pool<tartan::QueryPack> packs_;
};

class PyShard {
 public:
  PyShard(nb::object table, int64_t passages, const Array& codes, const Array& residuals_TB,
          const Array& scales_T, const std::optional<Array>& contexts_NX, const Array& offsets,
          const Array& posting_offsets, const Array& postings, int bits, const Array& levels,
          const Array& alpha, const Array& beta, const std::optional<Array>& centroids_f32,
          bool normalize)
      : table_(table),
        kept_{codes,    residuals_TB, scales_T, offsets, posting_offsets,
              postings, levels,       alpha,    beta},
        shard_(nb::cast<const Table&>(table).core(), [&] {
          if (centroids_f32) kept_.push_back(*centroids_f32);
          if (contexts_NX) kept_.push_back(*contexts_NX);
          require(passages >= 0 && passages < int64_t{1} << 32,
                  "passages " + std::to_string(passages) + " must lie between 0 and 2^32");
          const size_t count = static_cast<size_t>(passages);
          const size_t centroids = nb::cast<const Table&>(table).core().centroids();
          tartan::ShardArrays arrays;
          arrays.residuals = view<uint8_t>("residuals_TB", residuals_TB, 2, "uint8");
          arrays.scales_T = view_bytes("scales_T", scales_T);
          if (contexts_NX) {
            arrays.contexts = view<uint8_t>("contexts_NX", *contexts_NX, 2, "uint8");
          }
          const size_t tokens = arrays.scales_T.size();
          arrays.codes_T = {"codes", view_bytes("codes", codes), tokens, centroids - 1};
          arrays.offsets_N1 = {"offsets", view_bytes("offsets", offsets), count + 1, tokens};
          arrays.postings = {view_bytes("posting_offsets", posting_offsets),
                             view_bytes("postings", postings), centroids, count};
          arrays.bits = bits;
          arrays.levels = view<float>("levels", levels, 1, "float32");
          arrays.alpha = view<float>("alpha", alpha, 1, "float32");
          arrays.beta = view<float>("beta", beta, 1, "float32");
          if (centroids_f32) {
            arrays.centroids_f32 = view<float>("centroids_f32", *centroids_f32, 2, "float32");
          }
          arrays.normalize = normalize;
          return arrays;
        }()) {
    const size_t stored = shard_.dim() * static_cast<size_t>(bits) / 8;
    require(residuals_TB.shape(0) == shard_.tokens() && residuals_TB.shape(1) == stored,
            "residuals_TB has shape (" + std::to_string(residuals_TB.shape(0)) + ", " +
                std::to_string(residuals_TB.shape(1)) + "), expected (" +
                std::to_string(shard_.tokens()) + ", " + std::to_string(stored) + ")");
    require(!contexts_NX || (contexts_NX->shape(0) == shard_.passages() &&
                             contexts_NX->shape(1) == stored + tartan::kContextScaleBytes),
            "contexts_NX must have a row of " +
                std::to_string(stored + tartan::kContextScaleBytes) + " bytes for each of " +
                std::to_string(shard_.passages()) + " passages");
    require(!centroids_f32 || centroids_f32->shape(1) == shard_.dim(),
            "centroids_f32 must have dimension " + std::to_string(shard_.dim()));
  }

  const tartan::Shard& core() const { return shard_; }

  HitArrays search(const Array& Q_LD, const Array& probe_ids_LP, const Array& probe_scores_LP,
                   int64_t k, int64_t candidates, const std::optional<Array>& allowed_N,
                   double deadline_s, float margin, int64_t scored, float missed,
                   float spread) const {
    const auto query = view_query(Q_LD, shard_.dim());
    const auto probes = view_probes(probe_ids_LP, probe_scores_LP, Q_LD.shape(0));
    const size_t wanted = positive("k", k);
    require(scored >= 0, "scored " + std::to_string(scored) + " must be at least 0");
    require_margin(margin);
    require(0 <= missed && missed <= 1, "missed must be a share from 0 to 1");
    require(0 <= spread && spread <= kMostSpread, "spread must lie between 0 and 1e6");
    const tartan::Budget budget{positive("candidates", candidates), margin,
                                static_cast<size_t>(scored), missed, spread};
    const auto allowed = view_allowed(allowed_N);
    return to_arrays(without_gil([&] {
      return shard_.search(query, probes, wanted, budget, allowed, tartan::Deadline(deadline_s));
    }));
  }

  std::tuple<Vector<int64_t>, Vector<float>> approximate(
      const Array& Q_LD, const Array& probe_ids_LP, const Array& probe_scores_LP,
      const std::optional<Array>& allowed_N, size_t first, std::optional<size_t> last) const {
    const auto query = view_query(Q_LD, shard_.dim());
    const auto probes = view_probes(probe_ids_LP, probe_scores_LP, Q_LD.shape(0));
    const auto allowed = view_allowed(allowed_N);
    const tartan::Range window{first, last.value_or(shard_.passages())};
    const auto found =
        to_arrays(without_gil([&] { return shard_.approximate(query, probes, allowed, window); }));
    return {std::get<0>(found), std::get<1>(found)};
  }

  HitArrays exhaustive(const Array& Q_LD, int64_t k, const std::optional<Array>& allowed_N,
                       double deadline_s) const {
    const auto query = view_query(Q_LD, shard_.dim());
    const size_t wanted = positive("k", k);
    const auto allowed = view_allowed(allowed_N);
    return to_arrays(without_gil(
        [&] { return shard_.exhaustive(query, wanted, allowed, tartan::Deadline(deadline_s)); }));
  }

  Vector<float> interaction(const Array& Q_LD, const Array& pids) const {
    return scores_of(&tartan::Shard::interaction, Q_LD, pids);
  }

  Vector<float> score(const Array& Q_LD, const Array& pids) const {
    return scores_of(&tartan::Shard::score, Q_LD, pids);
  }

  std::tuple<Vector<int32_t>, Vector<float>> match(const Array& Q_LD, int64_t pid) const {
    const auto query = view_query(Q_LD, shard_.dim());
    auto best = new_vector<int32_t>(Q_LD.shape(0));
    auto scores = new_vector<float>(Q_LD.shape(0));
    without_gil([&] { shard_.match(query, pid, best.data(), scores.data()); });
    return {best, scores};
  }

  Matrix<float> decode(int64_t first_token, int64_t count) const {
    shard_.check_tokens(first_token, count);
    auto vectors = new_matrix<float>(static_cast<size_t>(count), shard_.dim());
    without_gil([&] { shard_.decode(first_token, count, vectors.data()); });
    return vectors;
  }

 private:
  using Scorer = void (tartan::Shard::*)(std::span<const float>, std::span<const int64_t>,
                                         float*) const;

  Vector<float> scores_of(Scorer scorer, const Array& Q_LD, const Array& pids) const {
    const auto query = view_query(Q_LD, shard_.dim());
    const auto wanted = view<int64_t>("pids", pids, 1, "int64");
    auto scores = new_vector<float>(wanted.size());
    without_gil([&] { (shard_.*scorer)(query, wanted, scores.data()); });
    return scores;
  }

  nb::object table_;         // kept alive
  std::vector<Array> kept_;  // likewise
  tartan::Shard shard_;
};

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Native kernels; colbert_core/reference defines what they compute.";
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const tartan::DeadlinePassed& passed) {
      PyErr_SetString(PyExc_TimeoutError, passed.what());
    }
  });
  tartan::active_leaf();  // a wrong TARTAN_ISA fails here, not in the first query

  nb::class_<Table>(module, "CentroidTable")
      .def(nb::init<const Array&, const Array&>(), "codes_CD"_a.noconvert(),
           "scales_C"_a.noconvert())
      .def("probe", &Table::probe, "Q_LD"_a.noconvert(), "nprobe"_a, "threads"_a = 1,
           "keep_rows"_a = false)
      .def_prop_ro("centroids", [](const Table& self) { return self.core().centroids(); })
      .def_prop_ro("dim", [](const Table& self) { return self.core().dim(); });

  nb::class_<PyShard>(module, "Shard")
      .def(nb::init<nb::object, int64_t, const Array&, const Array&, const Array&,
                    const std::optional<Array>&, const Array&, const Array&, const Array&, int,
                    const Array&, const Array&, const Array&, const std::optional<Array>&, bool>(),
           "table"_a, "passages"_a, "codes"_a.noconvert(), "residuals_TB"_a.noconvert(),
           "scales_T"_a.noconvert(), "contexts_NX"_a.noconvert().none(), "offsets"_a.noconvert(),
           "posting_offsets"_a.noconvert(), "postings"_a.noconvert(), "bits"_a,
           "levels"_a.noconvert(), "alpha"_a.noconvert(), "beta"_a.noconvert(),
           "centroids_f32"_a.noconvert().none(), "normalize"_a)
      .def("search", &PyShard::search, "Q_LD"_a.noconvert(), "probe_ids_LP"_a.noconvert(),
           "probe_scores_LP"_a.noconvert(), "k"_a, "candidates"_a,
           "allowed_N"_a.noconvert().none() = nb::none(), "deadline_s"_a = 0.0,
           "margin"_a = std::numeric_limits<float>::infinity(),
           "scored"_a = std::numeric_limits<int64_t>::max(), "missed"_a = 0.0f, "spread"_a = 0.0f)
      .def("approximate", &PyShard::approximate, "Q_LD"_a.noconvert(), "probe_ids_LP"_a.noconvert(),
           "probe_scores_LP"_a.noconvert(), "allowed_N"_a.noconvert().none() = nb::none(),
           "first"_a = 0, "last"_a.none() = nb::none())
      .def("exhaustive", &PyShard::exhaustive, "Q_LD"_a.noconvert(), "k"_a,
           "allowed_N"_a.noconvert().none() = nb::none(), "deadline_s"_a = 0.0)
      .def("interaction", &PyShard::interaction, "Q_LD"_a.noconvert(), "pids"_a.noconvert())
      .def("score", &PyShard::score, "Q_LD"_a.noconvert(), "pids"_a.noconvert())
      .def("match", &PyShard::match, "Q_LD"_a.noconvert(), "pid"_a)
      .def("decode", &PyShard::decode, "first_token"_a, "count"_a)
      .def("_age_scratch", [](const PyShard& self) { self.core().age_scratch(); })
      .def_prop_ro("passages", [](const PyShard& self) { return self.core().passages(); })
      .def_prop_ro("tokens", [](const PyShard& self) { return self.core().tokens(); })
      .def_prop_ro("dim", [](const PyShard& self) { return self.core().dim(); });

  bind_build(module);
  bind_strings(module);

  module.def("isa", [] { return std::string(tartan::active_leaf().name); });
  module.def("isas", &tartan::available_isas);
  module.def("use_isa", &tartan::use_isa, "name"_a);
}
