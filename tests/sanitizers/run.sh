#!/usr/bin/env bash
# Fuzzing with GCC's sanitizers: the threads under ThreadSanitizer; random histories of optimizers under
# AddressSanitizer and UndefinedBehaviorSanitizer, and without them; and spoiled checkpoints.
#     bash tests/sanitizers/run.sh WORKDIR [SEED]
# Needs GCC, and a Python with fastoptim, the build requirements, ml_dtypes, pytest and atheris on the PATH.  Some five
# minutes on two cores; the tree stays as it is.  Histories are limited in number, so that machines run the same ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "$1"
work=$(cd "$1" && pwd)
seed=${2:-1}
# Other sets of instructions and -O2 would take longer to compile than they would have to do.
isa=$(grep -qm1 avx2 /proc/cpuinfo && echo avx2 || echo baseline)

echo "== ThreadSanitizer"
g++ -std=c++20 -O1 -g1 -Wall -Wextra -Werror -fsanitize=thread -pthread -o "$work/threads" tests/sanitizers/threads.cpp \
    csrc/cpu/{cpu_quota,layer_tuner,openmp,parallel,pool,thread_count}.cpp
TSAN_OPTIONS="halt_on_error=1 exitcode=66" "$work/threads" 30 "$seed"

echo "== AddressSanitizer and UndefinedBehaviorSanitizer"
cmake --preset asan -B "$work/asan" -DFASTOPTIM_ISAS=$isa -DCMAKE_INSTALL_PREFIX="$work/site" > /dev/null
cmake --build "$work/asan" --target install > /dev/null
# Python itself is not instrumented, so the run-time libraries are preloaded; the leaks are Python's.
if ! LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
    UBSAN_OPTIONS=print_stacktrace=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=$work/site \
    python tests/fuzz.py histories --seed "$seed" --count 300 --seconds 60 --current "$work/current"; then
    echo "failed at: $(cat "$work/current")"
    exit 1
fi

echo "== without sanitizers"
python tests/fuzz.py histories --seed "$((seed + 1))" --count 300 --seconds 30
python tests/fuzz.py files --seed "$seed" --seconds 10
python tests/fuzz_atheris.py -max_total_time=20 -seed="$seed" -len_control=0 -max_len=40 -rss_limit_mb=1000 \
    -artifact_prefix="$work/" -print_final_stats=1 -verbosity=0 2>&1 | tail -20
