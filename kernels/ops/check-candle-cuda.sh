#!/bin/sh
# Checks the types of the feature `candle-cuda` without a CUDA toolkit: candle's own kernels are "compiled" by stub/nvcc,
# which compiles nothing. In a target directory of its own, so that candle's `cuda` does not enter any other build; about
# two minutes when that is empty. It shows that our calls fit candle's and cudarc's, and nothing about how they run.
set -eu
cd "$(dirname "$0")/../.."
stub=$PWD/kernels/ops/stub
target=${CANDLE_CUDA_TARGET_DIR:-${CARGO_TARGET_DIR:-target}/candle-cuda}
# `check` writes no program and no library; the folder that build scripts take for a toolkit is empty beside the stub.
NVCC=$stub/nvcc PATH=$stub:$PATH CUDA_HOME=$stub CUDA_COMPUTE_CAP=80 CARGO_TARGET_DIR=$target \
  cargo clippy --locked -p luthier-ops --features candle-cuda "$@" -- -D warnings
# Nothing that a driver would take came of it.
if find "$target" -name '*.ptx' -exec grep -l '\.entry' {} + | grep .; then
  echo "the stub made PTX with kernels in it" >&2
  exit 1
fi
