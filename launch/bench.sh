#!/usr/bin/env bash
# Measures training throughput, beside PyTorch where $PYTORCH_PYTHON is a Python that has it.
#   PYTORCH_PYTHON=python3 bash launch/bench.sh [flags of benchmarks.throughput]
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh requirements.txt
pytorch=()
[[ -z ${PYTORCH_PYTHON:-} ]] || pytorch=("--pytorch_python=$PYTORCH_PYTHON")
exec .venv/bin/python -m benchmarks.throughput "${pytorch[@]}" "$@"
