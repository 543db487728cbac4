// Work in parts, on threads that take the next part when they are done with one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace tartan {

// Calls `make_worker()` once in each of at most `threads` threads, this one among them, and what it
// returns with every number below `parts`, each once. An error stops all and is thrown here.
template <class MakeWorker>
void for_each_part(size_t parts, size_t threads, const MakeWorker& make_worker) {
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto run = [&] {
    try {
      auto worker = make_worker();
      for (size_t part = next++; part < parts; part = next++) worker(part);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      next = parts;
    }
  };
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < std::min(threads, parts); ++i) others.emplace_back(run);
    run();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace tartan
