#!/usr/bin/env bash
# Build, check, measure and test on a machine with a GPU.  It needs no network; `bash bench/on_gpu.sh --help`.
PATH=$PATH:/usr/local/cuda/bin exec python3 "$(dirname "$0")/on_gpu.py" "$@"
