#!/usr/bin/env bash
# Check and measure fedkd on a GPU in one go, under eight minutes. Run it from the project's root:
#
#     bash PATH/check.sh [--wheels DIR] [--data mnist.npz] [--out DIR] [--seconds 450] [--dry-run]
#
#   --wheels DIR   wheels of what this machine lacks (get_wheels.sh); installed into a temporary folder. Default: .whl
#   --data FILE    images for the published setting (make_data.py); without it that part is left out
#   --out DIR      check.json, measure.json, published.json and log.txt. Default: gpu_results
#   --seconds N    for everything; each part gets its share and skips what would go beyond
#   --only PART    check, measure or published
#   --dry-run      on the CPU, in small, where there is no GPU
#   -- ...         what follows goes to the one part that --only names
#
# Ends with status 0 where every part ended well, 1 where something differs or failed, 2 where nothing could be run.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wheels=.whl data= out=gpu_results seconds=450 only= dry=
while [ $# -gt 0 ]; do
  case $1 in
    --wheels | --data | --out | --seconds | --only) declare "${1#--}=${2:?$1 needs a value}"; shift 2 ;;
    --dry-run) dry=--dry-run; shift ;;
    --) shift; break ;;
    *) echo "check.sh: unknown option $1"; exit 2 ;;
  esac
done
rest=("$@")
python=${PYTHON:-python3}
[ -d fedkd ] && [ -d strategies ] || { echo "check.sh: run it from the root of the project, which has fedkd/ and strategies/"; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
started=$SECONDS
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export PYTHONPATH="$PWD:$here" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FEDKD_CACHE="$temporary/cache"

lacking() { # names of what is not installed
  "$python" - <<'PYTHON'
from importlib.util import find_spec
names = ("flwr", "flwr_datasets", "hydra", "omegaconf", "opacus", "pydantic", "google.protobuf", "torch", "numpy")
print(*(name for name in names if not find_spec(name.partition(".")[0])))
PYTHON
}
missing=$(lacking)
if [ -n "$missing" ]; then
  compgen -G "$wheels/*.whl" >/dev/null || {
    echo "check.sh: $missing: not installed, and $wheels holds no wheels (get_wheels.sh fetches them)"; exit 2; }
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --upgrade --target "$temporary/site" "$wheels"/*.whl || { echo "check.sh: the wheels cannot be installed"; exit 2; }
  PYTHONPATH="$temporary/site:$PYTHONPATH"
  missing=$(lacking)
  [ -z "$missing" ] || { echo "check.sh: still missing: $missing"; exit 2; }
fi
[ -n "$dry" ] || "$python" - <<'PYTHON' || exit 2
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"check.sh: PyTorch {torch.__version__} finds no CUDA device here; --dry-run tries the script on the CPU")
PYTHON

status=0
part() { # name, share of the seconds in percent, arguments
  local name=$1 share=$2 budget; shift 2
  [ -z "$only" ] || [ "$only" = "$name" ] || return 0
  [ -z "$only" ] || share=93
  budget=$((seconds * share / 100))
  echo; echo "== $name, $budget s at most"
  timeout $((budget + 45)) "$python" "$here/$name.py" --out "$out" --budget "$budget" $dry "$@" "${rest[@]}" || status=1
}
{
  lscpu 2>/dev/null | grep 'Model name'; echo "$(nproc 2>/dev/null) cores"
  [ -n "$dry" ] || nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,utilization.gpu --format=csv,noheader
  echo "ready after $((SECONDS - started)) s"
  part check 29
  part measure 46
  if [ -n "$data" ] || [ -n "$dry" ]; then part published 16 ${data:+--data "$data"}; fi
  echo; echo "all parts: $((SECONDS - started)) s, status $status"
} > >(tee "$out/log.txt") 2>&1
wait
exit $status
