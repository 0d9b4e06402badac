#!/usr/bin/env bash
# The Slurm array on a real Slurm of one node, set up for this test alone. Opt-in, since it starts
# daemons and wants to be root. Says "not run" where it was not asked for or Slurm is not installed.
#
# usage: SIDECHANNEL_TEST_SLURM=1 tests/slurm/run.sh build/cpu/bin/sweep
set -euo pipefail

program=$(realpath "${1:?usage: tests/slurm/run.sh PROGRAM}")
here=$(realpath -- "${BASH_SOURCE[0]}")
submit=${here%/*}/../../experiments/slurm/submit

not_run() {
  echo "SKIPPED: not run ($*)"
  exit 0
}
[[ -n ${SIDECHANNEL_TEST_SLURM:-} ]] || not_run "set SIDECHANNEL_TEST_SLURM=1 to run it"
export PATH=$PATH:/usr/sbin:/sbin
for tool in slurmctld slurmd munged sbatch scontrol squeue; do
  command -v "$tool" >/dev/null || not_run "$tool not found; Debian: slurm-wlm munge"
done
((EUID == 0)) || not_run "not root"

work=$(mktemp -d)
export SLURM_CONF=$work/slurm.conf
pids=()
finish() {
  local code=$?
  if ((code != 0)); then
    tail -n 30 "$work"/*.log "$work"/sweep/slurm/*.log >&2 || true
  fi
  scancel --user=root >/dev/null 2>&1 || true
  for ((i = ${#pids[@]} - 1; i >= 0; --i)); do
    kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" || true
  done
  rm -rf "$work"
  exit $code
}
trap finish EXIT

# wait_until SECONDS COMMAND...
wait_until() {
  local tries=$(($1 * 5))
  shift
  while ! "$@"; do
    ((tries-- > 0)) || {
      echo "waited too long for: $*" >&2
      return 1
    }
    sleep 0.2
  done
}

# --- A cluster of this host ---------------------------------------------------------------------

cores=$(nproc)
host=$(hostname -s)
mkdir -p "$work"/{spool,state,munge}
dd if=/dev/urandom of="$work/munge/key" bs=1 count=1024 status=none
chmod 700 "$work" "$work/munge"
chmod 400 "$work/munge/key"
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge/socket" \
  --pid-file="$work/munge/pid" --log-file="$work/munged.log" --seed-file="$work/munge/seed" \
  >"$work/munge.out" 2>&1 &
pids+=($!)
wait_until 20 test -S "$work/munge/socket"

# Processes are followed without cgroups; this plugin asks for none to be mounted.
printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=%s\n' "$work/cgroup" >"$work/cgroup.conf"
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=3600
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
slurmctld -D >"$work/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D -N "$host" >"$work/slurmd.out" 2>&1 &
pids+=($!)
node_is_idle() { [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]; }
wait_until 60 node_is_idle
echo "slurm $(slurmctld -V | cut -d' ' -f2): one node of $cores cores"

# --- The sweep ----------------------------------------------------------------------------------

sweep=$work/sweep
settings=(--preset groups/demo --over groups=1,2,4,8 --set length=20 --set depth=4 --set channels=8
  --set kernel_size=3 --set batch=4 --set map_samples=128 --set iterations="${ITERATIONS:-60000}")
"$program" plan --out "$sweep" "${settings[@]}" >/dev/null

SWEEP_PROGRAM=$program "$submit" "$sweep" --cpus-per-task=1
state_of() { squeue --noheader --array --states=all --format='%K %T' | sed -n "s/^$1 //p"; }
has_state() { [[ $(state_of "$1") == "$2" ]]; }
checkpoint() { compgen -G "$sweep/cells/groups=$1,*/checkpoint.safetensors" >/dev/null; }

# Preemption: the scheduler's own requeue of cell 0, and the warning before a time limit to cell 1.
wait_until 60 checkpoint 1
wait_until 60 checkpoint 2
job=$(squeue --noheader --array --states=all --format=%F | head -n 1)
scontrol requeue "${job}_0"
scancel --batch --signal=USR1 "${job}_1"
interrupted() { grep -q "cell 1: interrupted, back to the queue" "$sweep/slurm/1.log"; }
wait_until 60 interrupted
stopped() { grep -q "train: stopped at step" "$sweep/slurm/$1.log"; }
stopped 1

all_finished() { [[ -z $("$program" status --out "$sweep" --unfinished) ]]; }
wait_until 400 all_finished
resumed() { grep -q "train: resumed at step" "$sweep/slurm/$1.log"; }
resumed 0
resumed 1
for cell in 0 1 2 3; do
  [[ $(grep -c ": localization distance " "$sweep/slurm/$cell.log") == 1 ]]
done
[[ $(SWEEP_PROGRAM=$program "$submit" "$sweep") == "$sweep: all cells are finished" ]]

# As good as a sweep that nobody interrupted.
"$program" run --out "$work/whole" "${settings[@]}" --device cpu 2>/dev/null >/dev/null
"$program" collect --out "$sweep" >/dev/null
"$program" collect --out "$work/whole" >/dev/null
cmp "$sweep/results.json" "$work/whole/results.json"
cmp "$sweep/cells.csv" "$work/whole/cells.csv"
echo "passed: 4 cells as a Slurm array, two of them interrupted and requeued; same results"
