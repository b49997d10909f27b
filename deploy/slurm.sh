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

# Seconds that the nodes have to join Ray; then the job ends and names those that did not.
patience="${SHRINKGRID_JOIN_SECONDS:-600}"
give_up() { # NODES
  echo "error: $1 did not join Ray within $patience s (its messages are above); leave" \
    "it out with \`sbatch --exclude\`, or set SHRINKGRID_JOIN_SECONDS to wait longer" >&2
  exit 2
}

# Ray ends on a node that has not joined within 30 s, and is then started again there.
declare -A rays
keep_up() { # NODE WORDS: start Ray on a node unless it runs there
  if [[ -z ${rays[$1]-} ]] || ! kill -0 "${rays[$1]}" 2> /dev/null; then
    "${step[@]}" --nodelist="$1" "${start[@]}" "${@:2}" &
    rays[$1]=$!
  fi
}

head=(--head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1)
SECONDS=0 # bash counts them up
keep_up "${nodes[0]}" "${head[@]}"
until ray health-check --address "$ip:$port" 2> /dev/null; do
  ((SECONDS < patience)) || give_up "${nodes[0]}"
  sleep 2
  keep_up "${nodes[0]}" "${head[@]}"
done

absent() { # Print the nodes that have not joined; fail while there are any.
  python - "$ip:$port" "${nodes[@]}" << 'END'
import sys
import ray

address, *wanted = sys.argv[1:]
ray.init(address=address, logging_level="ERROR")
joined = [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
# Slurm knows host2 by this name where it calls itself host2.example.org.
names = {name.partition(".")[0] for name in joined}
print(*(name for name in wanted if name.partition(".")[0] not in names))
sys.exit(len(joined) < len(wanted))
END
}

# The run begins when all are there.
SECONDS=0
for node in "${nodes[@]:1}"; do keep_up "$node" --address="$ip:$port"; done
until missing=$(absent); do
  ((SECONDS < patience)) || give_up "${missing:-a node}"
  sleep 2
  for node in "${nodes[@]:1}"; do keep_up "$node" --address="$ip:$port"; done
done

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
