#!/usr/bin/env bash
# Compares the digests of every case with those that were recorded on x86-64 with AVX2 and GCC 12: on processors that are
# emulated (AArch64, cross-compiled, and x86-64 without AVX), and of other compilers (Clang 19; GCC 14, which is that of
# Debian 13, with its Python 3.13).
#     bash tests/ports/run.sh WORKDIR [aarch64|nehalem|clang|gcc14]
# Needs Debian 12 and root: it installs compilers and QEMU, and unpacks an AArch64 Python and a Debian 13 in WORKDIR.  A
# Python 3.11 with the build requirements, NumPy, ml_dtypes and fastoptim is on the PATH.  Some 25 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=$PWD
mkdir -p "$1"
work=$(cd "$1" && pwd)
which=${2:-all}

aarch64() {
    apt-get install -qq -y g++-aarch64-linux-gnu qemu-user-static > /dev/null
    dpkg --add-architecture arm64
    apt-get update -qq
    mkdir -p "$work/debs" "$work/root" "$work/site"
    (cd "$work/debs" && apt-get download -qq python3.11-minimal:arm64 libpython3.11-{minimal,stdlib,dev}:arm64 \
        {libc6,libgcc-s1,libstdc++6,libgomp1,zlib1g,libexpat1,libffi8,libssl3,liblzma5,libbz2-1.0}:arm64)
    for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/root"; done
    pip download -q --no-deps --platform manylinux_2_28_aarch64 --python-version 311 --only-binary=:all: \
        -d "$work/wheels" "numpy==$(python -c 'import numpy; print(numpy.__version__)')" ml_dtypes
    for wheel in "$work"/wheels/*.whl; do python -m zipfile -e "$wheel" "$work/site"; done

    include=$work/root/usr/include
    cmake -S "$tree" -B "$work/build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$tree/tests/ports/toolchain-aarch64.cmake" \
        -DCMAKE_BUILD_TYPE=Release -DFASTOPTIM_CUDA=OFF -DFASTOPTIM_WERROR=ON -DCMAKE_INSTALL_PREFIX="$work/site" \
        -DPython_EXECUTABLE="$(command -v python)" -DPython_INCLUDE_DIR="$include/python3.11" \
        -DCMAKE_CXX_FLAGS="-isystem $include" > /dev/null
    cmake --build "$work/build" --target install > /dev/null
    for module in _core _bench; do mv "$work/site/fastoptim/$module".cpython-*.so "$work/site/fastoptim/$module.so"; done

    code=$(aarch64-linux-gnu-objdump -d "$work/site/fastoptim/_core.so")
    echo "vector square roots: $(grep -cE 'fsqrt\s+v[0-9]+\.(4s|2d)' <<< "$code"); fused: $(grep -cE '\s(fmla|fmls|fn?madd|fn?msub)\s' <<< "$code" || true)"
    PYTHONPATH=$work/site:$tree/tests qemu-aarch64-static -L "$work/root" "$work/root/usr/bin/python3.11" tests/digests.py
}

nehalem() {
    apt-get install -qq -y qemu-user-static > /dev/null
    # NumPy's OpenBLAS would select kernels that this processor does not have.
    OPENBLAS_CORETYPE=Nehalem PYTHONPATH=$tree/tests qemu-x86_64-static -cpu Nehalem "$(command -v python)" -c '
import fastoptim as fo
assert fo.build_info()["isa_usable"] == ["baseline"]
import runpy, sys
sys.argv = ["tests/digests.py"]
runpy.run_path("tests/digests.py", run_name="__main__")'
}

clang() {
    apt-get install -qq -y clang-19 libomp-19-dev > /dev/null
    cmake -S "$tree" -B "$work/clang" -G Ninja -DCMAKE_CXX_COMPILER="${CLANGXX:-clang++-19}" -DCMAKE_BUILD_TYPE=Release \
        -DFASTOPTIM_CUDA=OFF -DFASTOPTIM_WERROR=ON -DCMAKE_INSTALL_PREFIX="$work/clang/site" > /dev/null
    cmake --build "$work/clang" --target install > /dev/null
    PYTHONPATH=$work/clang/site:$tree/tests python tests/digests.py
}

gcc14() {
    apt-get install -qq -y debootstrap > /dev/null
    local root=$work/debian13 in_root
    [ -d "$root/etc" ] || debootstrap --variant=minbase --include=g++,python3-dev,python3-venv trixie "$root" > /dev/null
    in_root="env -i HOME=/ PATH=/venv/bin:/usr/sbin:/usr/bin:/bin LC_ALL=C.UTF-8 chroot $root"
    rm -rf "$root/wheels" "$root/tree" "$root/venv"
    git clone -q "$tree" "$root/tree"
    pip download -q --only-binary=:all: --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
        --python-version 313 -d "$root/wheels" scikit-build-core pybind11 cmake ninja numpy ml_dtypes pytest
    $in_root python3 -m venv /venv
    $in_root pip install -q --no-index --find-links /wheels scikit-build-core pybind11 cmake ninja numpy ml_dtypes pytest
    $in_root env FASTOPTIM_CUDA=OFF pip install -q --no-index --no-build-isolation --no-deps \
        -Ccmake.define.FASTOPTIM_WERROR=ON /tree
    $in_root env PYTHONPATH=/tree/tests python /tree/tests/digests.py
}

for each in aarch64 nehalem clang gcc14; do
    if [ "$which" = all ] || [ "$which" = $each ]; then
        echo "== $each"
        $each
    fi
done
