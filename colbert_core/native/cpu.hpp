// Which SIMD path to take: asked of the processor once, or forced by TARTAN_ISA or `use_isa`.
#pragma once

#include <string>
#include <vector>

#include "leaf.hpp"

namespace tartan {

// The path in use. Throws std::invalid_argument if TARTAN_ISA names one that cannot run here.
const Leaf& active_leaf();
// The path in use, entered for as long as this lives: see Leaf::enter.
class LeafScope {
 public:
  LeafScope() : leaf_(active_leaf()) {
    if (leaf_.enter != nullptr) leaf_.enter();
  }
  LeafScope(const LeafScope&) = delete;
  LeafScope& operator=(const LeafScope&) = delete;
  ~LeafScope() {
    if (leaf_.leave != nullptr) leaf_.leave();
  }
  const Leaf* operator->() const { return &leaf_; }

 private:
  const Leaf& leaf_;
};

// The paths that this processor can run, fastest first.
std::vector<std::string> available_isas();
// Takes the path `name` from now on, for the whole process; for tests and benchmarks.
void use_isa(const std::string& name);

}  // namespace tartan
