#!/usr/bin/env bash
# Runs the main job on this machine, from any folder; the first call makes the environment.
#   bash launch/local.sh [flags of amdjax.main]      without flags: --config=digits.py
# Paths are relative to the current folder: --config=mine.py is read, and runs/ written, there. The
# recipes of configs/ are found by their names. JAX is installed for CPU; for NVIDIA GPUs, once:
#   .venv/bin/pip install "jax[cuda13]"
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bash "$root/launch/install.sh" requirements.txt
[[ $# -gt 0 ]] || set -- --config=digits.py
exec "$root/.venv/bin/python" -m amdjax.main "$@"
