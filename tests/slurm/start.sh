#!/usr/bin/env bash
# start.sh DIRECTORY: a Slurm of one node under DIRECTORY, for tests. Needs root and Debian's packages slurm-wlm and munge.
# Prints the path of its configuration: `export SLURM_CONF=$(tests/slurm/start.sh DIRECTORY)`. stop.sh ends it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"/{state,spool,log,run}
directory=$(cd "$1" && pwd)
host=$(hostname -s)
read -r cpus memory < <(slurmd -C | sed -n 's/.*CPUs=\([0-9]*\) .*RealMemory=\([0-9]*\).*/\1 \2/p')

fail() {
  "$here/stop.sh" "$directory" || true
  echo "Slurm did not come up; the last lines of its logs:" >&2
  for log in "$directory"/log/*.log; do tail -n 5 "$log" >&2; done
  exit 1
}

# Ports that nothing listens on, so that several can run at once.
ports=$(python3 - <<'PYTHON'
import socket
open_sockets = [socket.socket() for _ in range(2)]
for one in open_sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in open_sockets))
PYTHON
)
read -r controller_port node_port <<<"$ports"

# munged wants directories that only their owner may write.
chmod 755 "$directory" "$directory"/run "$directory"/log
head -c 1024 /dev/urandom >"$directory/munge.key"
chmod 400 "$directory/munge.key"
munged --force --key-file="$directory/munge.key" --socket="$directory/run/munge.socket" \
  --pid-file="$directory/run/munged.pid" --log-file="$directory/log/munged.log" --seed-file="$directory/state/munge.seed"

cat >"$directory/slurm.conf" <<CONF
ClusterName=luthier
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$controller_port
SlurmdPort=$node_port
AuthType=auth/munge
AuthInfo=socket=$directory/run/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,default_queue_depth=1000
ReturnToService=2
KillWait=5
MinJobAge=${LUTHIER_SLURM_MIN_JOB_AGE:-300}
SlurmctldPidFile=$directory/run/slurmctld.pid
SlurmdPidFile=$directory/run/slurmd.pid
SlurmdSpoolDir=$directory/spool
StateSaveLocation=$directory/state
SlurmctldLogFile=$directory/log/slurmctld.log
SlurmdLogFile=$directory/log/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 Port=$node_port CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=64
CONF
# No plugin that uses control groups is configured, but slurmd wants one loaded; "disabled" is known from 23.02 on.
if [ "$(slurmd -V | tr -dc "0-9." | cut -d. -f1)" -ge 23 ]; then
  echo "CgroupPlugin=disabled" >"$directory/cgroup.conf"
else
  printf "CgroupPlugin=cgroup/v1\nCgroupMountpoint=%s\n" "$directory/state" >"$directory/cgroup.conf"
fi
export SLURM_CONF=$directory/slurm.conf

slurmctld >>"$directory/log/start.log" 2>&1 || fail
slurmd -N "$host" >>"$directory/log/start.log" 2>&1 || fail
for _ in $(seq 100); do
  if sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle'; then
    echo "$SLURM_CONF"
    exit 0
  fi
  sleep 0.1
done
fail
