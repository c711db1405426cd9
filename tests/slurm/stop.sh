#!/usr/bin/env bash
# stop.sh DIRECTORY: ends the Slurm that start.sh DIRECTORY started, and its jobs.
set -uo pipefail
directory=$1
export SLURM_CONF=$directory/slurm.conf
scancel --user=root --full --signal=KILL >/dev/null 2>&1
for name in slurmd slurmctld munged; do
  pid=$(cat "$directory/run/$name.pid" 2>/dev/null) || continue
  kill "$pid" 2>/dev/null || continue
  for _ in $(seq 50); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null
done
exit 0
