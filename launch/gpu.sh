#!/usr/bin/env bash
# Tests and measures amdjax on an NVIDIA GPU beside PyTorch, within 25 minutes. The figures are in
# runs/gpu/table.md, which is written while they are measured; repeat the command to continue.
#   bash launch/gpu.sh [flags of benchmarks.accelerator]
# The first call makes .venv-gpu and .venv-torch with $PYTHON (default python3); JAX is that for
# $CUDA, cuda12 or cuda13 (default: what the driver says). WHEELS=FOLDER takes all packages from a
# folder, offline. AMDJAX_PYTHON=PATH uses an environment that has JAX and pytest, together
# with the wheels of $WHEELS that it does not have; PYTORCH_PYTHON=PATH is that of PyTorch, if it is
# another one.
set -euo pipefail
cd "$(dirname "$0")/.."

index=()
[[ -z ${WHEELS:-} ]] || index=(--no-index --find-links "$WHEELS")

# install FOLDER FILE [REQUIREMENT...]: makes an environment with a file of requirements, once.
install() {
  local folder=$1 file=$2 wanted
  shift 2
  wanted="$* $(cat "$file")"
  [[ -f $folder/installed && $(cat "$folder/installed") == "$wanted" ]] && return
  echo "installing $file $* into $folder" >&2
  "${PYTHON:-python3}" -m venv "$folder" &&
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${index[@]}" -r "$file" "$@" &&
    printf '%s\n' "$wanted" >"$folder/installed"
}

if [[ -n ${AMDJAX_PYTHON:-} ]]; then
  python=$AMDJAX_PYTHON
  if [[ -n ${WHEELS:-} ]]; then
    site=$PWD/runs/gpu-packages
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade \
      --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
  fi
  torch=${PYTORCH_PYTHON:-$python}
else
  if [[ -z ${CUDA:-} ]]; then
    CUDA=cuda12
    # grep -q would end before nvidia-smi has written all, which pipefail takes for an error.
    if nvidia-smi 2>/dev/null | grep -E 'CUDA( UMD)? Version: *1[3-9]' >/dev/null; then CUDA=cuda13; fi
  fi
  install .venv-gpu requirements.txt "jax[$CUDA]" "pytest>=9,<10"
  python=.venv-gpu/bin/python
  torch=${PYTORCH_PYTHON:-}
  if [[ -z $torch ]]; then
    torch=.venv-torch/bin/python
    # In an environment of its own: it may want other versions of NVIDIA's libraries.
    install .venv-torch benchmarks/requirements.txt ||
      echo "PyTorch is not installed: amdjax is measured alone" >&2
  fi
fi
exec "$python" -m benchmarks.accelerator --out=runs/gpu --pytorch_python="$torch" "$@"
