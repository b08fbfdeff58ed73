#!/usr/bin/env bash
# Make a pinned environment: bash requirements/install.sh NAME FOLDER, from the top of the repository.
# NAME is that of a lock file beside this script; the variable PYTHON names the Python to use.
set -euo pipefail
name=$1
venv=$2
lock=requirements/$name.txt
python=${PYTHON:-python3}
pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)

"$python" requirements/check_machine.py "$name"
echo "[1/4] making $venv"
rm -rf "$venv"
"$python" -m venv "$venv"
grep -E '^(pip|setuptools|wheel|ninja)==' "$lock" | "${pip[@]}" install -r /dev/stdin
echo "[2/4] installing torch, OpenMMLab's libraries and the tools: 2 to 10 minutes"
# The lock has all there is to have, and nothing else may be drawn in.
grep -v '^mmcv==' "$lock" | "${pip[@]}" install --no-deps -r /dev/stdin
if grep -q '^mmcv==' "$lock"; then
  echo "[3/4] building mmcv with its operators: 5 to 10 minutes the first time"
  # In an isolated build there is no torch, and mmcv leaves its operators out without a word.
  export CFLAGS=-g0 MMCV_WITH_OPS=1
  build=("${pip[@]}" install --no-deps --no-build-isolation -c "$lock")
  "${build[@]}" mmcv
  if ! "$venv/bin/python" -c 'import mmcv.ops' 2>/dev/null; then
    echo "      once more: what pip had kept was built without them, or for another torch"
    "${build[@]}" --force-reinstall --no-cache-dir mmcv
    "$venv/bin/python" -c 'import mmcv.ops'
  fi
fi
echo "[4/4] installing se_mm"
"${pip[@]}" install --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import se_mm'
echo "$venv is ready"
