#!/usr/bin/env bash
# Train a config with several processes, one for each GPU; or on the CPU where there is none.
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several nodes: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# On one node, where a rank may die, MAX_RESTARTS=3 starts all ranks again up to three times: they go
# on from the newest checkpoint, of a work dir that is this run's alone.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT= MAX_RESTARTS=] bash $0 CONFIG GPUS [options]" >&2
  exit 2
fi
config=$1
gpus=$2
tools=$(dirname "$0")
rendezvous=(--node_rank="${NODE_RANK:-0}"
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
if [ "${MAX_RESTARTS:-0}" != 0 ]; then
  if [ "${NNODES:-1}" != 1 ]; then
    echo "error: MAX_RESTARTS=$MAX_RESTARTS is not allowed with NNODES=$NNODES: one node alone." >&2
    exit 2
  fi
  # Ranks that are started again meet in a new store: the old one has the addresses of those gone.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  rendezvous=(--rdzv-backend=c10d --rdzv-endpoint="127.0.0.1:${PORT:-29500}")
fi
exec "${PYTHON:-python}" "$tools/torchrun.py" \
  --nnodes="${NNODES:-1}" "${rendezvous[@]}" \
  --nproc_per_node="$gpus" --max-restarts="${MAX_RESTARTS:-0}" \
  "$tools/train.py" "$config" --launcher pytorch "${@:3}"
