#!/usr/bin/env bash
# Runs the main job as N processes on this machine; on GPUs each process gets one of them.
#   bash launch/multiprocess.sh N [flags of amdjax.main]
# Only the first process prints. SIGTERM and Ctrl-C go to all; when one dies, all are stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-}
[[ $count =~ ^[1-9][0-9]*$ ]] || {
  echo "error: the number of processes is missing: bash launch/multiprocess.sh 2 --config=..." >&2
  exit 2
}
shift
python=${AMDJAX_PYTHON:-.venv/bin/python} # an environment of your own, in place of .venv
[[ -n ${AMDJAX_PYTHON:-} ]] || bash launch/install.sh requirements.txt

JAX_COORDINATOR_ADDRESS=127.0.0.1:$("$python" - <<'PORT'
import socket
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    print(free.getsockname()[1])
PORT
)
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$count

processes=()
for ((index = 0; index < count; index++)); do
  gpu=()
  command -v nvidia-smi >/dev/null && gpu=(env "CUDA_VISIBLE_DEVICES=$index")
  JAX_PROCESS_ID=$index "${gpu[@]}" "$python" -m amdjax.main "$@" &
  processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM INT

status=0
left=$count
while ((left > 0)); do
  code=0
  wait -n -p ended "${processes[@]}" || code=$?
  [[ -n ${ended:-} ]] || continue  # a signal, not the end of a process
  left=$((left - 1))
  remaining=()
  for process in "${processes[@]}"; do [[ $process == "$ended" ]] || remaining+=("$process"); done
  processes=("${remaining[@]}")
  unset ended
  if ((code != 0 && status == 0)); then
    status=$code
    ((left == 0)) || echo "error: a process ended with code $code; the others are stopped" >&2
    ((left == 0)) || kill -KILL "${processes[@]}" 2>/dev/null || true
  fi
done
exit "$status"
