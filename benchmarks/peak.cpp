// What this processor can do at best, on one thread: int8 operations and bytes read a second.
//
//   g++ -O3 -march=native peak.cpp -o peak && ./peak
//
// Prints JSON. Each figure is the best of many short runs, because other work can only slow one
// down. A multiplication and an addition are two operations.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kRuns = 60;
constexpr int kRounds = 20000;

template <class Work>
double best_per_second(double units, Work work) {
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (units / spent.count() > best) best = units / spent.count();
  }
  return best;
}

#if defined(__AVX512VNNI__)
// Twelve independent sums hide the latency of the instruction.
double vnni() {
  constexpr int kSums = 12;
  return best_per_second(2.0 * 64 * kSums * kRounds, [] {
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), sums[kSums] = {};
    for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
      for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
      asm volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 0; i < kSums; ++i) asm volatile("" ::"v"(sums[i]));
  });
}
#elif defined(__AVX2__)
double avx2() {
  constexpr int kSums = 6;
  return best_per_second(2.0 * 32 * kSums * kRounds, [] {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), sums[kSums] = {};
    const __m256i ones = _mm256_set1_epi16(1);
    for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 6
      for (int i = 0; i < kSums; ++i) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_xor_si256(a, sums[i]), b);
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
      }
      asm volatile("" : "+x"(a), "+x"(b));
    }
    for (int i = 0; i < kSums; ++i) asm volatile("" ::"x"(sums[i]));
  });
}
#endif

#if defined(__AMX_INT8__)
struct alignas(64) Tiles {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const Tiles kTiles;

// Four accumulators, from two tiles on either side.
double amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
  _tile_loadconfig(&kTiles);
  const double best = best_per_second(2.0 * 16 * 16 * 64 * 4 * kRounds, [] {
    for (int round = 0; round < kRounds; ++round) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  });
  _tile_release();
  return best;
}
#endif

// Bytes a second when `bytes` are read over and over.
double reading(size_t bytes) {
  std::vector<uint64_t> data(bytes / sizeof(uint64_t), 1);
  const size_t rounds = bytes < (size_t{64} << 20) ? (size_t{64} << 20) / bytes : 1;
  return best_per_second(static_cast<double>(bytes * rounds), [&] {
    for (size_t round = 0; round < rounds; ++round) {
      uint64_t sum = 0;
      for (const uint64_t value : data) sum += value;
      asm volatile("" ::"r"(sum) : "memory");
    }
  });
}

}  // namespace

int main() {
  std::printf("{\"int8_operations_per_s\": {");
  const char* comma = "";
#if defined(__AMX_INT8__)
  std::printf("\"amx\": %.4g", amx());
  comma = ", ";
#endif
#if defined(__AVX512VNNI__)
  std::printf("%s\"avx512_vnni\": %.4g", comma, vnni());
#elif defined(__AVX2__)
  std::printf("%s\"avx2\": %.4g", comma, avx2());
#endif
  std::printf("}, \"bytes_per_s\": {");
  comma = "";
  for (size_t bytes = size_t{1} << 20; bytes <= size_t{256} << 20; bytes *= 4) {
    std::printf("%s\"%zu\": %.4g", comma, bytes, reading(bytes));
    comma = ", ";
  }
  std::printf("}}\n");
}
