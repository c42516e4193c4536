#!/usr/bin/env bash
# All that needs a GPU, on a machine that has one, with nvcc.
#     bash bench/on_gpu.sh [STAGE]...        (default: all of these, in this order)
# build      with CUDA, into an environment of its own, which the other stages use
# test       the tests marked `gpu`
# sanitize   compute-sanitizer's memcheck, racecheck and synccheck over a few of them
# measure    the benchmark, which writes bench/results/GPU.json
# A stage that fails does not stop those after it; the exit status is the worst.  No stage takes more than ten minutes;
# PATIENCE=3 gives three times as long.  Where there is no network, what is installed already has to do (PIP_FIND_LINKS
# may name a directory of wheels).  WORK=DIR is where everything is put, build/on_gpu by default.  CUDA=12 takes
# cupy-cuda12x, whatever the driver's version.  TORCH=0 does not fetch PyTorch, 3 GB.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(realpath -m "${WORK:-$checkout/build/on_gpu}")
PATH=$PATH:/usr/local/cuda/bin # for what is not found before
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
cd "$checkout"

status=0
worse() { (($1 <= status)) || status=$1; }
part() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

# The seconds of a stage's commands add up to less than 600.
limited() { timeout -k 5 "$(($1 * ${PATIENCE:-1}))" "${@:2}"; }

need() {
  command -v "$1" && return
  echo "$1: not found on the PATH, nor in /usr/local/cuda/bin; $2" >&2
  return 1
}

fetch() {
  limited "$1" pip install --quiet --retries 1 --timeout 10 "${@:2}" ||
    echo "-- not fetched, so what is installed has to do: ${*:2}"
}

enter() {
  if ! test -e "$work/venv/bin/activate"; then
    echo "$work/venv: expected an environment; run the stage build first" >&2
    return 1
  fi
  . "$work/venv/bin/activate"
}

has_cupy() { # 14 is the first with bfloat16
  python -c 'import sys, cupy; sys.exit(int(cupy.__version__.split(".")[0]) < 14)'
}

has_torch() {
  python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}

build() {
  need nvcc "the build is by CUDA 12.1 or later"
  need nvidia-smi "it comes with the driver, and says for which GPU to build"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  test -x "$work/venv/bin/pip" || python3 -m venv --system-site-packages "$work/venv"
  enter

  part "what it is built and tested with"
  fetch 60 'scikit-build-core>=0.11' 'pybind11>=3.0' 'cmake>=3.21' ninja 'numpy>=1.24' 'ml_dtypes>=0.4' 'pytest>=8'
  if ! has_cupy 2> "$work/no_cupy"; then
    driver=$(nvidia-smi | sed -n 's/.*CUDA[A-Za-z ]* Version: *\([0-9]*\)\..*/\1/p' | sed -n 1p)
    cuda=${CUDA:-$((${driver:-12} < 13 ? 12 : 13))}
    fetch 120 "cupy-cuda${cuda}x[ctk]>=14"
    if ! has_cupy 2> "$work/no_cupy"; then
      tail -n 1 "$work/no_cupy" >&2
      echo "cupy: expected 14 or later" >&2
      return 1
    fi
  fi

  part "fastoptim"
  FASTOPTIM_CUDA=ON limited 280 pip install --quiet --no-build-isolation --no-deps --no-index .
  python -m fastoptim info

  if [ "${TORCH:-1}" = 1 ] && ! has_torch 2> /dev/null; then fetch 120 torch; fi
  has_torch 2> /dev/null || echo "-- no PyTorch with CUDA: its tests and times are left out"
}

# Away from the checkout, whose python/ has no compiled module.
away() {
  rm -rf "$work/away"
  mkdir -p "$work/away/docs"
  cp -r tests csrc pyproject.toml "$work/away"
  cp docs/cuda.md "$work/away/docs"
  cd "$work/away"
}

# Warnings are errors, but for those of libraries when they are imported.
pytest=(python -m pytest -q -p no:cacheprovider -W default::FutureWarning -W default::DeprecationWarning
  -W default::UserWarning -W error::pytest.PytestWarning)

run_tests() {
  enter
  away
  limited 470 "${pytest[@]}" -m "gpu and not large" || worse $?
  part "more than 2^31 elements"
  limited 110 "${pytest[@]}" -m "gpu and large" || worse $?
}

# Elementwise, with norms and with sums over a group; one array by itself; more than a launch has room for; a graph.
few="test_special_values and ([sgd-float32 or [adam-float32 or [lamb-float32 or [novograd-float32 or [prodigy-float32) \
or test_special_state and [adam-float32 or test_thousands_of_arrays and [lamb \
or test_a_captured_step_goes_on and [all-lamb"

sanitize() {
  need compute-sanitizer "it comes with the CUDA toolkit"
  enter
  away
  for tool in memcheck racecheck synccheck; do
    part "$tool"
    if [ "$tool" = memcheck ]; then export FASTOPTIM_CUPY_POOL=OFF; else unset FASTOPTIM_CUPY_POOL; fi
    limited 190 compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
      "${pytest[@]}" -m "gpu and not large" -k "$few" tests/test_gpu_bits.py tests/test_gpu_interface.py || worse $?
  done
}

measure() {
  enter
  limited 590 python bench/on_gpu.py measure --output bench/results
}

(($#)) || set -- build test sanitize measure
if (($# > 1)); then
  for stage in "$@"; do
    bash "$checkout/bench/on_gpu.sh" "$stage" || worse $?
  done
  exit "$status"
fi
part "$1"
case $1 in
  build | sanitize | measure) "$1" ;;
  test) run_tests ;;
  *)
    echo "expected the stages build, test, sanitize, measure, got '$1'" >&2
    exit 2
    ;;
esac
echo "-- $1: status $status after ${SECONDS}s"
exit "$status"
