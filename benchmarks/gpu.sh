#!/usr/bin/env bash
# Every figure that needs a GPU, in one command of a few minutes; benchmarks/gpu.py says what it does.
#
#   benchmarks/gpu.sh --prepare FOLDER [--real-data DIR]      beforehand, where the whole package is installed
#   benchmarks/gpu.sh OUT --data FOLDER [--shape 0.5b|tiny]   on the machine with the GPU
#
# $PYTHON is the interpreter: by default the repository's .venv where there is one, else python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x "$root/.venv/bin/python" ] && PYTHON=$root/.venv/bin/python
fi
export PYTHONPATH="$root/benchmarks:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
exec "$PYTHON" "$root/benchmarks/gpu.py" "$@"
