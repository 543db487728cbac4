#include "table.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <thread>

#include "cpu.hpp"
#include "scratch.hpp"
#include "select.hpp"

namespace tartan {

namespace {

constexpr float kLargestRow = 32000.0f;  // of an int16, with room for rounding
constexpr uint32_t kLeastPerThread = 8192;

// A look at a sample pays where many centroids are chosen of many more.
constexpr size_t kLeastLookedFor = 16;
constexpr size_t kLeastOfAll = 64;  // centroids for each that is chosen

// As many of the sample as are above what `nprobe` of all exceed, and three deviations and two
// more, for how many those are is a matter of chance: where all is random, a token gets fewer than
// `nprobe` once in a thousand times, and then everything is looked at again.
size_t rank_in_sample(size_t nprobe) {
  const double expected = static_cast<double>(nprobe) / CentroidSample::kEvery;
  return static_cast<size_t>(std::ceil(expected + 3 * std::sqrt(expected)) + 2);
}

}  // namespace

CentroidSample::CentroidSample(const CentroidView& table, size_t centroids) : dim_(table.dim) {
  for (size_t c = 0; c < centroids; c += kEvery) {
    codes_.insert(codes_.end(), table.codes + c * dim_, table.codes + (c + 1) * dim_);
    scales_.push_back(table.scales[c]);
    sums_.push_back(table.sums[c]);
  }
}

CentroidTable::~CentroidTable() = default;

CentroidTable::CentroidTable(std::span<const int8_t> codes_CD, size_t dim,
                             std::span<const float> scales_C)
    : scales_(scales_C), sums_(scales_C.size()), dim_(dim) {
  require(dim >= 8 && dim <= kMaxDim && dim % 8 == 0,
          "dimension " + std::to_string(dim) + " must be a multiple of 8 from 8 to 1024");
  const size_t count = codes_CD.size() / dim;
  require(count >= 1, "codes_CD has no centroids; at least 1 is needed");
  require(count < (size_t{1} << 31), "codes_CD has more than 2^31 centroids");
  require(scales_C.size() == count, "scales_C has " + std::to_string(scales_C.size()) +
                                        " entries for " + std::to_string(count) + " centroids");
  for (const float scale : scales_C) {
    require(scale >= 0 && scale <= kMaxMagnitude, "scales_C must lie in [0, 1e6]");
  }
  std::copy(codes_CD.begin(), codes_CD.end(), codes_.grow(codes_CD.size()));
  for (size_t c = 0; c < count; ++c) {
    int32_t sum = 0, squares = 0;
    for (size_t d = 0; d < dim; ++d) {
      const int32_t code = codes_CD[c * dim + d];
      sum += code;
      squares += code * code;
    }
    sums_[c] = sum;
    longest_ = std::max(longest_, std::sqrt(static_cast<double>(squares)) * scales_C[c]);
  }
  sample_ = CentroidSample(view(), count);
}

void CentroidTable::find_gains(const QueryBlock& block, float* gains) const {
  for (int lane = 0; lane < block.lanes(); ++lane) {
    const double longest = std::sqrt(static_cast<double>(block.squares[lane])) * longest_;
    const bool used = lane < block.tokens && longest > 0;
    gains[lane] = used ? kLargestRow / static_cast<float>(longest) : 0.0f;
  }
}

void CentroidTable::select(const QueryPack& query, uint32_t begin, uint32_t end,
                           ProbeSelector& selector, CentroidRows* rows) const {
  const LeafScope leaf;
  for (const QueryBlock& block : query.blocks()) {
    alignas(64) float gains[kBlock];
    find_gains(block, gains);
    ProbeLanes lanes = selector.lanes(block);
    lanes.gains = gains;
    if (rows != nullptr) lanes.rows = rows->values.data() + block.first * centroids();
    leaf->probe(view(), begin, end, block, lanes);
  }
}

bool CentroidTable::look(const QueryPack& query, size_t nprobe, ProbeSelector& looked) const {
  if (nprobe < kLeastLookedFor || centroids() < kLeastOfAll * nprobe) return false;
  looked.reset(query, rank_in_sample(nprobe), sample_.centroids());
  const LeafScope leaf;
  for (const QueryBlock& block : query.blocks()) {
    ProbeLanes lanes = looked.lanes(block);
    lanes.offers = nullptr;
    leaf->probe(sample_.view(), 0, sample_.centroids(), block, lanes);
  }
  return true;
}

void CentroidTable::select_all(const QueryPack& query, size_t nprobe, size_t threads,
                               const ProbeSelector* looked, CentroidRows* rows,
                               ProbeSelector& selector) const {
  const uint32_t count = static_cast<uint32_t>(centroids());
  threads = std::clamp<size_t>(count / kLeastPerThread, 1, threads);
  const auto select_range = [&](size_t begin, size_t end, ProbeSelector& part) {
    part.reset(query, nprobe, count);
    if (looked != nullptr) part.guess(*looked);
    select(query, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), part, rows);
  };
  if (threads == 1) return select_range(0, count, selector);
  // Each thread selects from its own range; offered range after range, ties stay by smaller id.
  std::vector<ProbeSelector> parts(threads);
  std::vector<std::exception_ptr> errors(threads);
  {
    std::vector<std::jthread> workers;
    for (size_t i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        try {
          select_range(i * count / threads, (i + 1) * count / threads, parts[i]);
        } catch (...) {
          errors[i] = std::current_exception();
        }
      });
    }
  }
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  selector.reset(query, nprobe, count);
  for (size_t token = 0; token < query.tokens(); ++token) {
    for (ProbeSelector& part : parts) {
      for (const uint64_t key : part.finish(token)) {
        selector.offer(token, {key_score(key), key_id(key)});
      }
    }
  }
}

void CentroidTable::probe(const QueryPack& query, size_t nprobe, size_t threads, bool keep_rows,
                          int32_t* ids, float* scores) const {
  const size_t kept = std::min<size_t>(nprobe, centroids());
  const std::shared_ptr<CentroidRows> rows = keep_rows ? rows_.blank(query, centroids()) : nullptr;
  auto selector = selectors_.borrow();
  auto looked = selectors_.borrow();
  const bool guessed = look(query, kept, *looked);
  select_all(query, kept, threads, guessed ? &*looked : nullptr, rows.get(), *selector);
  if (guessed && selector->short_of_any(query.tokens())) {
    select_all(query, kept, threads, nullptr, nullptr, *selector);
  }
  if (rows) rows_.keep(rows);
  for (size_t token = 0; token < query.tokens(); ++token) {
    size_t at = token * kept;
    for (const uint64_t key : selector->finish(token)) {
      ids[at] = static_cast<int32_t>(key_id(key));
      scores[at++] = key_score(key);
    }
  }
}

}  // namespace tartan
