#!/usr/bin/env bash
# Build, measure and test on a machine with a GPU, nvcc, CuPy and the build's requirements.  It needs no network.
#     bash bench/on_gpu.sh            about eight minutes; everything is written below OUT, build/on_gpu by default
# The order is that of information per second: times come before the long tests.  Each part runs even if one before it
# failed; the exit status is the worst.  The sanitizers are separate: docs/cuda.md.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=$(realpath -m "${OUT:-build/on_gpu}")
PATH=$PATH:/usr/local/cuda/bin
mkdir -p "$out"
status=0

part() { # NAME SECONDS COMMAND...: run it, keep its output, and remember its failure
  printf '\n== %s (%ss)\n' "$1" "$SECONDS"
  timeout -k 5 "$2" "${@:3}" 2>&1 | tee "$out/$1.txt" || status=1
}

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
part machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.draw --format=csv
# Into a directory and not an environment: one made from python3's own environment would not contain its packages.
FASTOPTIM_CUDA=ON CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
  part build 240 python3 -m pip install -q --no-build-isolation --no-deps --no-index --upgrade --target "$site" .
((status)) && exit "$status"
export PYTHONPATH=$site
part info 20 python3 -m fastoptim info
bench() { part "$1" 60 python3 -m fastoptim bench "${@:2}" --device cuda --seconds 2 --json "$out/$1.json"; }
bench large adam lamb sgd --size 2^27
bench large-bfloat16 adam --size 2^27 --dtype bfloat16
bench models adam --model gpt2 tiny
for file in tests/test_gpu_*.py tests/*/test_*gpu*.py; do # a process each, as an illegal address ends a CUDA context
  test -e "$file" && part "$(basename "$file" .py)" 120 python3 -m pytest -q -p no:cacheprovider --maxfail=3 \
    -W default::FutureWarning -W default::DeprecationWarning -W default::UserWarning -m "gpu and not large" "$file"
done
echo "-- status $status after ${SECONDS}s; see $out"
exit "$status"
