#!/usr/bin/env bash
# Start Ray on a Slurm allocation of two nodes with 8 GPUs, train, then run the pass@k job on the last checkpoint.
#   sbatch deploy/slurm.sh                     (settings: SHARED=/other/folder sbatch deploy/slurm.sh)
#   sbatch deploy/slurm.sh                     (again: continues the run, after a crash or the end of its time)
#SBATCH --job-name=breadth
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
# This script gets SIGTERM 15 minutes before the end and passes it on, so that the run can finish its step and write a
# checkpoint.
#SBATCH --signal=B:TERM@900
# After the failure of a node Slurm starts this script again, which continues the run.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=breadth-%j.log
set -euo pipefail

# On a file system that every node mounts: the virtual environment, the policy, the data and the runs.
SHARED=${SHARED:-/shared}
NAME=${NAME:-dph-f}
STEPS=${STEPS:-200}
PORT=${PORT:-6379}
# NCCL over InfiniBand locks memory; srun passes this script's limits on to the nodes.
ulimit -l unlimited 2> /dev/null || echo "locked memory is limited to $(ulimit -l) KB: NCCL may fail over InfiniBand" >&2
export PATH="${VENV:-$SHARED/breadth/.venv}/bin:$PATH"

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
export RAY_ADDRESS="$head:$PORT"
# Anyone who can connect to a Ray cluster can run code on it, and others use this network; the token restricts access.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(ray get-auth-token --generate)
export RAY_AUTH_TOKEN
driver=
stopping=
trap 'stopping=yes; [ -z "$driver" ] || kill -TERM "$driver" 2> /dev/null || true' TERM
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

wait_for_nodes() {
  for _ in {1..60}; do
    nodes=$(python -c 'import ray; ray.init(log_to_driver=False); print(sum(n["Alive"] for n in ray.nodes()))' \
      2> /dev/null || echo 0)
    [ "$nodes" -lt "$1" ] || return 0
    sleep 5
  done
  echo "Ray has $nodes of $1 nodes after 60 attempts" >&2
  return 1
}

# The driver runs in the background, so that the trap can run meanwhile.
run() {
  [ -z "$stopping" ] || exit 0
  "$@" &
  driver=$!
  status=0
  while kill -0 "$driver" 2> /dev/null; do
    wait "$driver" || true # ends early when a signal arrives
  done
  wait "$driver" || status=$?
  driver=
  [ "$status" -eq 0 ] || exit "$status"
}

resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE")
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$head" \
  ray start --head --port="$PORT" "${resources[@]}" --block &
wait_for_nodes 1
if [ "$SLURM_NNODES" -gt 1 ]; then
  others=$((SLURM_NNODES - 1))
  srun --nodes="$others" --ntasks="$others" --cpus-per-task="$SLURM_CPUS_PER_TASK" --exclude="$head" \
    ray start --address="$RAY_ADDRESS" "${resources[@]}" --block &
  wait_for_nodes "$SLURM_NNODES"
fi

settings=(
  name="$NAME" runs="$SHARED/runs" policy.path="$SHARED/models/policy" policy.chat_template=true
  task.name=dataset task.options.path="$SHARED/data/train.jsonl"
)
# With --restarts a run that fails goes on by itself, and one that exists is continued.
run breadth train --restarts 3 method=dph_f scale=16gpu steps="$STEPS" "${settings[@]}" \
  objective.terms.divergence.coefficient.value=0.02 logbook.wandb=offline

# The last checkpoint against the starting policy. Generators only, so the weights come from host memory.
run breadth evaluate "$SHARED/runs/$NAME" placement.generators=8
run breadth report "$SHARED/runs/$NAME"
