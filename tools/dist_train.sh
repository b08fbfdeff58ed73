#!/usr/bin/env bash
# Train a config with several processes, one per GPU, or on the CPU if there are no GPUs.
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# For several nodes, run it on each of them and set NNODES, NODE_RANK, MASTER_ADDR and PORT.
# On one node, MAX_RESTARTS=3 restarts all ranks up to three times if one crashes; they resume from
# the newest checkpoint. No other run may use the same work dir.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT= MAX_RESTARTS=] bash $0 CONFIG GPUS [options]" >&2
  exit 2
fi
config=$1
gpus=$2
tools=$(dirname "$0")
if [ "${MAX_RESTARTS:-0}" != 0 ] && [ "${NNODES:-1}" != 1 ]; then
  echo "error: MAX_RESTARTS must be 0 with NNODES=$NNODES, got $MAX_RESTARTS; it needs one node" >&2
  exit 2
fi
exec "${PYTHON:-python}" "$tools/torchrun.py" \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  --nproc_per_node="$gpus" --max-restarts="${MAX_RESTARTS:-0}" \
  "$tools/train.py" "$config" --launcher pytorch "${@:3}"
