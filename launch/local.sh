#!/usr/bin/env bash
# Runs the main job on this machine; the first call makes the environment.
#   bash launch/local.sh [flags of amdjax.main]      without flags: --config=configs/digits.py
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh requirements.txt
[[ $# -gt 0 ]] || set -- --config=configs/digits.py
exec .venv/bin/python -m amdjax.main "$@"
