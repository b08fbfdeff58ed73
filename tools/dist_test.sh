#!/usr/bin/env bash
# Test a checkpoint with several processes, one per GPU, or on the CPU if there are no GPUs.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# For several nodes, run it on each of them and set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] bash $0 CONFIG CHECKPOINT GPUS [options]" >&2
  exit 2
fi
config=$1
checkpoint=$2
gpus=$3
tools=$(dirname "$0")
exec "${PYTHON:-python}" "$tools/torchrun.py" \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  --nproc_per_node="$gpus" \
  "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
