#!/usr/bin/env bash
# Runs a Slurm of this one machine, as root; all it writes is in FOLDER.
#   bash tests/launch/slurm.sh start|stop FOLDER      then: export SLURM_CONF=FOLDER/slurm.conf
# Needs Debian's slurm-wlm and munge, and installs nothing.
set -euo pipefail
action=${1:?start or stop} folder=$(realpath -m "${2:?a folder}")
export SLURM_CONF=$folder/slurm.conf
socket=$folder/munge/socket

start() {
  local host
  host=$(hostname -s)
  mkdir -p "$folder"/{ctl,d,log,munge}
  dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
  chmod 400 "$folder/munge/key"
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
StateSaveLocation=$folder/ctl
SlurmdSpoolDir=$folder/d
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
  munged --force --socket="$socket" --key-file="$folder/munge/key" \
    --log-file="$folder/log/munged.log" --pid-file="$folder/munged.pid" \
    --seed-file="$folder/munge/seed"
  slurmctld
  slurmd -N "$host"
  for _ in {1..60}; do
    [[ $(sinfo --noheader --format=%t 2>/dev/null) != idle ]] || return 0
    sleep 0.5
  done
  echo "error: the node is not ready; see $folder/log" >&2
  stop
  exit 1
}

stop() {
  local name
  for name in slurmd slurmctld munged; do
    [[ ! -f $folder/$name.pid ]] || kill "$(<"$folder/$name.pid")" 2>/dev/null || true
  done
}

case $action in
  start | stop) "$action" ;;
  *)
    echo "error: $action is neither start nor stop" >&2
    exit 2
    ;;
esac
