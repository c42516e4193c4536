#!/usr/bin/env bash
# Unpacks NVIDIA's compiler from PyPI in a directory; CUDACXX is then DIRECTORY/nvidia/cu13/bin/nvcc.
#     bash .github/cuda_toolkit.sh DIRECTORY [PYTHON]
# Version 13.0, because drivers of CUDA 13.0 cannot compile the PTX of a later one.
set -euo pipefail
"${2:-python3}" -m pip install --quiet --no-deps --target "$1" \
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==13.0.88 nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-nvvm==13.0.88
ln -sfn lib "$1/nvidia/cu13/lib64"
ln -sf libcudart.so.13 "$1/nvidia/cu13/lib/libcudart.so" # by which CMake knows a toolkit; the static library is linked
