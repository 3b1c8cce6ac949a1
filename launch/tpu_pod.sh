#!/usr/bin/env bash
# Makes a TPU slice of one or many hosts and runs the main job on all of them, with gcloud.
#   bash launch/tpu_pod.sh create NAME ZONE TYPE RUNTIME [flags of gcloud]
#       asks for a slice, such as v5litepod-16 with v2-alpha-tpuv5-lite or v6e-16 with
#       v2-alpha-tpuv6e; --spot for one that may be pre-empted
#   bash launch/tpu_pod.sh status NAME ZONE
#       ACTIVE when it can be used
#   bash launch/tpu_pod.sh run NAME ZONE [flags of amdjax.main]
#       copies the last commit to every host, installs, trains, and shows the log until the end;
#       Ctrl-C and a lost connection end the display, not the training
#   bash launch/tpu_pod.sh attach NAME ZONE
#       shows the log of that training (amdjax/train.log on each host) until the end
#   bash launch/tpu_pod.sh stop NAME ZONE
#       makes the training save and stop
#   bash launch/tpu_pod.sh delete NAME ZONE
#       ends the slice and its costs
# The project is the one in gcloud's configuration (gcloud config set project PROJECT). For many
# hosts load the SSH key first: ssh-add ~/.ssh/google_compute_engine.
# --workdir must be on a disk that all hosts share, such as Filestore; to mount it on each host, give
# `create` --metadata-from-file=startup-script=FILE. With JAX_COMPILATION_CACHE_DIR=FOLDER on that disk
# a restart does not compile again; `run` passes it on. After a slice was preempted: delete, create and
# run again; with the same --workdir it continues from the last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  echo "error: $1" >&2
  sed -n '2,/^set /s/^# \{0,1\}//p' launch/tpu_pod.sh >&2
  exit 2
}

create() {
  [[ $# -ge 2 ]] || usage "create needs NAME ZONE TYPE RUNTIME"
  local type=$1 runtime=$2
  shift 2
  gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
    --accelerator-type="$type" --runtime-version="$runtime" "$@"
}

status() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format="value(state.state)"
}

delete() {
  gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
}

attach() {
  # shellcheck disable=SC2016
  on_all_hosts 'cd amdjax; tail --pid="$(cat train.pid)" -n +1 -f train.log'
}

stop() {
  # shellcheck disable=SC2016
  on_all_hosts 'kill -TERM "$(cat amdjax/train.pid)"'
}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

run() {
  local addresses cache number train
  addresses=$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" \
    --format="value(networkEndpoints[].ipAddress)")
  IFS=';, ' read -ra addresses <<<"$addresses"

  folder=$(mktemp -d)
  trap 'rm -r "$folder"' EXIT
  git archive --format=tar.gz --output="$folder/amdjax.tar.gz" HEAD
  # shellcheck disable=SC2016
  on_all_hosts 'kill -0 "$(cat amdjax/train.pid 2>/dev/null)" 2>/dev/null || exit 0
    echo "error: a training is running on this slice: attach shows it, stop ends it" >&2; exit 2'
  gcloud compute tpus tpu-vm scp "$folder/amdjax.tar.gz" "$name:" --zone="$zone" --worker=all
  # The Python of the hosts is 3.10.
  # shellcheck disable=SC2016
  on_all_hosts 'set -e; mkdir -p amdjax; tar -xzf amdjax.tar.gz -C amdjax; cd amdjax
    python3 -m pip install --quiet --user uv
    ~/.local/bin/uv python install --quiet 3.12
    PYTHON=$(~/.local/bin/uv python find 3.12) bash launch/install.sh requirements.txt
    .venv/bin/pip install --quiet "jax[tpu]"'

  cache=${JAX_COMPILATION_CACHE_DIR:+JAX_COMPILATION_CACHE_DIR=$(printf %q "$JAX_COMPILATION_CACHE_DIR")}
  number=http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number
  train=$(printf '%q ' .venv/bin/python -m amdjax.main "$@") # quoted for the hosts' shell
  on_all_hosts "cd amdjax
    export JAX_COORDINATOR_ADDRESS=${addresses[0]}:8476 JAX_NUM_PROCESSES=${#addresses[@]}
    export PYTHONUNBUFFERED=1 $cache
    export JAX_PROCESS_ID=\$(curl --silent --fail --header 'Metadata-Flavor: Google' $number)
    : >train.log
    nohup $train >>train.log 2>&1 </dev/null &
    echo \$! >train.pid
    tail --pid=\$! -n +1 -f train.log
    wait \$!"
}

action=${1:-} name=${2:-} zone=${3:-}
[[ $action =~ ^(create|status|run|attach|stop|delete)$ ]] ||
  usage "one of create, status, run, attach, stop, delete is missing"
[[ -n $name && -n $zone ]] || usage "$action needs NAME and ZONE"
command -v gcloud >/dev/null || {
  echo "error: gcloud is not installed: https://cloud.google.com/sdk/docs/install" >&2
  exit 2
}
shift 3
"$action" "$@"
