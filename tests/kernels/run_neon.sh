#!/usr/bin/env bash
# Builds the native kernels for arm64 on a machine of another kind, and runs the tests of their NEON
# path in an emulator: the same tests that the other paths pass. Debian only. An arm64 Python and its
# packages are put into $BUILD_DIR; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$PWD/.venv/bin/python}
build=$(realpath -m "${BUILD_DIR:-build/arm64}")
bin=$(dirname "$python")
root=$build/root site=$build/site

for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || {
    echo "$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
    exit 2
  }
done

# Python itself: Debian's packages for arm64, unpacked, by lists of their own.
if [ ! -x "$root/usr/bin/python3.11" ]; then
  mkdir -p "$build"/apt/{lists/partial,cache/archives/partial,packages}
  : >"$build/apt/status"
  cat >"$build/apt/conf" <<EOF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Dir::State::Lists "$build/apt/lists";
Dir::State::status "$build/apt/status";
Dir::Cache "$build/apt/cache";
EOF
  export APT_CONFIG=$build/apt/conf
  apt-get update -qq
  (cd "$build/apt/packages" && apt-get download -qq python3.11-minimal libpython3.11-minimal \
    libpython3.11-stdlib libpython3.11-dev libc6 libgcc-s1 libstdc++6 libexpat1 libffi8 libssl3 \
    libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1 zlib1g)
  for package in "$build"/apt/packages/*.deb; do dpkg -x "$package" "$root.part"; done
  mv "$root.part" "$root"
fi

# What the tests import.
if [ ! -d "$site" ]; then
  "$bin/pip" --disable-pip-version-check download -q --no-deps --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --platform any \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    -c constraints.txt -d "$build/wheels" numpy orjson scipy pyarrow pytest pluggy iniconfig \
    packaging pygments hypothesis sortedcontainers pytest-timeout
  for wheel in "$build"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$site.part"; done
  mv "$site.part" "$site"
fi

PATH="$bin:$PATH" cmake -S . -B "$build/native" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CXX_FLAGS="-I$root/usr/include" \
  -DPython_EXECUTABLE="$python" -DPython_INCLUDE_DIR="$root/usr/include/python3.11" \
  >"$build/configure.log"
PATH="$bin:$PATH" cmake --build "$build/native" --target _native

export TARTAN_NATIVE PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1
TARTAN_NATIVE=$(find "$build/native" -maxdepth 1 -name '_native*.so')
# Left out: torch's kernels, which are other code, and what starts Python anew, which no emulator would
# run.
exec qemu-aarch64 -L "$root" "$root/usr/bin/python3.11" -m pytest tests/kernels -k neon \
  --ignore tests/kernels/test_torch_build.py --ignore tests/kernels/test_torch_kernels.py \
  --ignore tests/kernels/test_choice.py -p no:cacheprovider --timeout 3000 "$@"
