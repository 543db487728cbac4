#!/usr/bin/env bash
# Builds the native kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs their tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$PWD/.venv/bin/python}
build=${BUILD_DIR:-build/asan}
bin=$(dirname "$python")

PATH="$bin:$PATH" cmake -S . -B "$build" -G Ninja -DTARTAN_SANITIZE=ON \
  -DPython_EXECUTABLE="$python" >"${TMPDIR:-/tmp}/tartan-asan-configure.log"
PATH="$bin:$PATH" cmake --build "$build" --target _native

# Python itself is not instrumented: the sanitizers' runtime must be there first, and the memory that
# the interpreter keeps until its end is no leak of ours. libstdc++ comes along so that the sanitizer
# finds __cxa_throw.
runtime=$(${CXX:-g++} -print-file-name=libasan.so):$(${CXX:-g++} -print-file-name=libstdc++.so)
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=0
export PYTHONMALLOC=malloc  # small blocks too get their red zones
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TARTAN_NATIVE
TARTAN_NATIVE=$(find "$(realpath "$build")" -maxdepth 1 -name '_native*.so')
# -s: a report that ends the process must not be caught by pytest.
LD_PRELOAD=$runtime exec "$python" -m pytest tests/kernels -s -p no:cacheprovider "$@"
