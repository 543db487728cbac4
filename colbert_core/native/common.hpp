// Nouns of the native core: limits, errors, aligned memory.
//
// Shapes as in colbert_core/reference, which defines every result: L query tokens, D dimensions,
// C centroids, P probes per query token, T passage tokens, N passages, B packed residual bytes per
// token. The core knows neither Python nor torch. It throws: std::invalid_argument for wrong
// arguments, CorruptShard for data that cannot be, DeadlinePassed when the time is over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tartan {

constexpr size_t kMaxQueryTokens = 1024;
constexpr size_t kMaxDim = 1024;
constexpr float kMaxMagnitude = 1e6f;         // of queries, scales, levels: keeps scores finite
constexpr float kMaxProbeScore = 1e30f;       // of probe scores that a caller sends
constexpr float kSmallestRange = 1e-30f;      // of probe scores; below, all gains count as equal
constexpr uint32_t kFinestAddend = 1u << 20;  // 1024 of them fit in 31 bits
constexpr float kGridTolerance = 1e-6f;       // of the largest level: a float's rounding
constexpr int kTrellisWindow = 6;             // bits that name a level
constexpr int kTrellisLevels = 1 << kTrellisWindow;
constexpr size_t kBatch = 64;  // passages between two looks at the clock

struct CorruptShard : std::runtime_error {
  explicit CorruptShard(const std::string& what)
      : std::runtime_error("corrupt shard: " + what + "; run `tartan index verify`") {}
};

struct DeadlinePassed : std::runtime_error {
  explicit DeadlinePassed(const std::string& stage)
      : std::runtime_error("the deadline passed during " + stage +
                           "; allow more time or search less") {}
};

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void require_length(const char* name, size_t size, size_t expected) {
  require(size == expected, std::string(name) + " has " + std::to_string(size) +
                                " entries, expected " + std::to_string(expected));
}

constexpr size_t kLargePage = size_t{1} << 21;

// Scores and dots of centroids are read here and there in megabytes: on large pages a query takes a
// tenth less. It is a wish; a system without them leaves memory as it is.
inline void ask_for_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
}

// Memory on a cache line that only ever grows; what it holds survives growing.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { std::free(data_); }

  // At least `size` elements; new ones are zero.
  T* grow(size_t size) {
    if (size <= size_) return data_;
    const size_t wanted = size > 2 * size_ ? size : 2 * size_;
    const size_t unit = wanted * sizeof(T) >= kLargePage ? kLargePage : 64;
    const size_t bytes = (wanted * sizeof(T) + unit - 1) / unit * unit;
    T* grown = static_cast<T*>(std::aligned_alloc(unit, bytes));
    if (grown == nullptr) throw std::bad_alloc();
    if (unit == kLargePage) ask_for_large_pages(grown, bytes);
    if (size_ > 0) std::memcpy(grown, data_, size_ * sizeof(T));
    std::memset(reinterpret_cast<char*>(grown) + size_ * sizeof(T), 0, bytes - size_ * sizeof(T));
    std::free(data_);
    data_ = grown;
    size_ = bytes / sizeof(T);
    return data_;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tartan
