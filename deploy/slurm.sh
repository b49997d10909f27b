#!/bin/bash
# A grid on a Slurm allocation: sbatch deploy/slurm.sh GRID STORE [options of run]
# Ray runs on every node of the allocation, the driver on the first.
#SBATCH --job-name=shrinkgrid
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
# Ten minutes before the end running trials finish, and nothing more starts.
#SBATCH --signal=B:TERM@600
set -euo pipefail
grid=$1 store=$2
shift 2
source "${SHRINKGRID_VENV:-.venv}/bin/activate"

# The home folder is on every node, and so is the token; who has none is not let in.
export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null
# Ray ends a node whose agents have not called within 30 s; a home folder that many nodes
# read at once makes their imports slower than that.
export RAY_agent_register_timeout_ms="${RAY_agent_register_timeout_ms:-300000}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ip=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address)
ip=${ip%% *}
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs of one user must not meet
step=(srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")
start=(ray start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK"
  --temp-dir="/tmp/ray-$SLURM_JOB_ID")

# Ray ends on a node that has not joined within 30 s, and is then started again there.
declare -A rays
keep_up() { # NODE WORDS: start Ray on a node unless it runs there
  if [[ -z ${rays[$1]-} ]] || ! kill -0 "${rays[$1]}" 2> /dev/null; then
    "${step[@]}" --nodelist="$1" "${start[@]}" "${@:2}" &
    rays[$1]=$!
  fi
}
keep_all_up() {
  for node in "${nodes[@]:1}"; do keep_up "$node" --address="$ip:$port"; done
}

head=(--head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1)
keep_up "${nodes[0]}" "${head[@]}"
until ray health-check --address "$ip:$port" 2> /dev/null; do
  sleep 2
  keep_up "${nodes[0]}" "${head[@]}"
done
keep_all_up
# The run begins when all are there.
until python - "$ip:$port" "${#nodes[@]}" << 'END'; do sleep 2 && keep_all_up; done
import sys
import ray

ray.init(address=sys.argv[1], logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))
END

shrinkgrid run "$grid" --store "$store" --address "$ip:$port" "$@" &
driver=$!
trap 'kill -TERM $driver' TERM INT
status=0
wait $driver || status=$?
while kill -0 $driver 2> /dev/null; do # a signal ends `wait` before the driver ends
  status=0
  wait $driver || status=$?
done
exit $status
