// Which SIMD path to take: asked of the processor once, or forced by TARTAN_ISA or `use_isa`.
#pragma once

#include <string>
#include <vector>

#include "leaf.hpp"

namespace tartan {

// The path in use. Throws std::invalid_argument if TARTAN_ISA names one that cannot run here.
const Leaf& active_leaf();
// The paths that this processor can run, fastest first.
std::vector<std::string> available_isas();
// Takes the path `name` from now on, for the whole process; for tests and benchmarks.
void use_isa(const std::string& name);

}  // namespace tartan
