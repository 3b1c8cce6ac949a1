#!/usr/bin/env bash
# Runs the tests, a process for each core; the first call makes the environment.
#   bash launch/test.sh [flags of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh requirements.txt tests/requirements.txt
exec .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
