#!/usr/bin/env bash
# Train a config with several processes, one for each GPU; or on the CPU where there is none.
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several nodes: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] bash $0 CONFIG GPUS [options]" >&2
  exit 2
fi
config=$1
gpus=$2
tools=$(dirname "$0")
exec "${PYTHON:-python}" "$tools/torchrun.py" \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  --nproc_per_node="$gpus" \
  "$tools/train.py" "$config" --launcher pytorch "${@:3}"
