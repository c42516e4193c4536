#!/usr/bin/env bash
# All that needs a GPU, on a machine that has one, with nvcc on the PATH: builds with CUDA, runs the tests marked `gpu`,
# compute-sanitizer's memcheck and racecheck over a few of them, then the benchmark, which writes bench/results/GPU.json.
#     bash bench/on_gpu.sh [WORKDIR]        (default: a temporary one; the environment in it is used again)
# CUDA=12 takes cupy-cuda12x in place of cupy-cuda13x.  TORCH=0 leaves PyTorch, 3 GB, out of the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-$(mktemp -d)}
stage() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

stage "build"
command -v nvcc nvidia-smi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
test -d "$work/venv" || python3 -m venv "$work/venv"
. "$work/venv/bin/activate"
pip install --quiet -Ccmake.define.FASTOPTIM_CUDA=ON ".[test,cuda${CUDA:-13}]"
if [ "${TORCH:-1}" = 1 ]; then pip install --quiet torch; fi
python -m fastoptim info

# Away from the checkout, whose python/ has no compiled module.
mkdir -p "$work/away"
rm -rf "$work/away/tests"
cp -r tests csrc pyproject.toml "$work/away"
checkout=$PWD
cd "$work/away"

stage "tests"
python -m pytest -q -p no:cacheprovider -m "gpu and not large"

stage "tests of more than 2^31 elements"
python -m pytest -q -p no:cacheprovider -m "gpu and large"

few="test_gpu_bits and (adam or lamb or novograd) and float32 and not offsets or test_gpu_interface and (captured or thousands)"
for tool in memcheck racecheck; do
  stage "compute-sanitizer $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
    python -m pytest -q -p no:cacheprovider -m "gpu and not large" -k "$few"
done

stage "benchmark"
python "$checkout/bench/on_gpu.py" measure --output "$checkout/bench/results"
stage "done"
