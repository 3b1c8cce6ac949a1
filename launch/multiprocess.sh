#!/usr/bin/env bash
# Runs the main job as N processes on this machine; with GPUs each process gets one GPU, of those in
# $CUDA_VISIBLE_DEVICES or else of all.
#   bash launch/multiprocess.sh N [flags of amdjax.main]
# It needs bash 5.1 or newer. Paths are relative to the repository's folder. JAX is installed for
# CPU; for NVIDIA GPUs, once:
#   bash launch/install.sh requirements.txt && .venv/bin/pip install "jax[cuda13]"
# SIGTERM and Ctrl-C make all of them save and stop (exit code 75; before the training 143); when one
# dies, the others are stopped, too. Repeat the command to resume from the last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "error: $1" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || # for wait -p
  fail "bash $BASH_VERSION is too old: multiprocess.sh needs bash 5.1 (macOS: brew install bash)"

count=${1:-}
[[ $count =~ ^[1-9][0-9]*$ ]] ||
  fail "the number of processes is missing: bash launch/multiprocess.sh 2 --config=digits.py"
shift

visible=${CUDA_VISIBLE_DEVICES-unset}
if [[ $visible == unset ]] && command -v nvidia-smi >/dev/null; then
  visible=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd ,) ||
    fail "nvidia-smi lists no GPUs: $visible; CUDA_VISIBLE_DEVICES= uses none"
fi
case $visible in unset | -1) visible= ;; esac
IFS=, read -ra gpus <<<"$visible"
((${#gpus[@]} == 0 || ${#gpus[@]} >= count)) ||
  fail "$count processes are too many for ${#gpus[@]} GPUs: each needs one of its own"

python=${AMDJAX_PYTHON:-.venv/bin/python} # an environment of your own, in place of .venv
[[ -n ${AMDJAX_PYTHON:-} ]] || bash launch/install.sh requirements.txt

free_port='import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
JAX_COORDINATOR_ADDRESS=127.0.0.1:$("$python" -c "$free_port")
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$count

stopped=75 # the exit code after SIGTERM
processes=()
signal=
trap 'signal=yes; kill -TERM "${processes[@]}" 2>/dev/null || true' TERM INT
for ((index = 0; index < count; index++)); do
  gpu=()
  ((${#gpus[@]} == 0)) || gpu=("CUDA_VISIBLE_DEVICES=${gpus[index]}")
  env "JAX_PROCESS_ID=$index" "${gpu[@]}" "$python" -m amdjax.main --stop_code="$stopped" "$@" &
  processes+=($!)
done

status=0 left=$count
while ((left > 0)); do
  code=0
  wait -n -p ended 2>/dev/null || code=$?
  [[ $code -le 128 || -n ${ended:-} ]] || continue # a signal came, no process ended
  if ((code != 0 && code != stopped)); then
    if [[ -n $signal && $code == 1[34]? ]]; then
      echo "stopped before the training began; repeat the command" >&2
    else
      echo "error: a process ended with code $code; the others are stopped" >&2
    fi
    { kill -KILL "${processes[@]}" && wait; } 2>/dev/null || true
    exit "$code"
  fi
  ((code == 0)) || status=$code
  left=$((left - 1))
done
exit "$status"
