#!/bin/sh
# Rollouts in place against ranks of `./rollout serve`: the RL stage of the embedded recipe, STEPS steps from one
# checkpoint, on 2 cores. In each of ROUNDS rounds all ways take turns. Prints, of each, sampled tokens per second while
# samples are drawn and of the whole stage, and stops if ways of one training rank differ in a byte of metrics.jsonl.
#   BASE=run-or-checkpoint dev/bench/serve.sh      # left out: a shortened pre- and mid-training makes it first
set -eu
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none
cd "$(dirname "$0")/../.."
make -s train rollout
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uptime
base=${BASE:-}
if [ -z "$base" ]; then
    ./train -runs "$work" -name base -stages pretrain,midtrain -pretrain.steps 300 -midtrain.steps 300 \
        -midtrain.decay 300 -eval_problems= >"$work/log" 2>&1 || { tail "$work/log"; exit 1; }
    base=$work/base
fi
case $base in */step_*) ;; *) base=$(ls -d "$base"/ckpt/step_* | tail -1) ;; esac
rl="-runs $work -init $base -stages rl -rl.steps ${STEPS:-20} -rl.decay 0 -eval_problems= -val_rows 2"
for round in $(seq "${ROUNDS:-3}"); do
    way() { # NAME COMMAND...
        name=$1
        shift
        rm -rf "${work:?}/$name"
        "$@" >"$work/log" 2>&1 || { tail "$work/log"; exit 1; }
        grep '"stage":"rl"' "$work/$name/timing.jsonl" >>"$work/$name.timing"
        grep '"sampled_tokens"' "$work/$name/metrics.jsonl" >>"$work/$name.metrics"
    }
    way in-place ./train $rl -name in-place -threads 2
    way 1+1 mpirun -np 1 ./train $rl -name 1+1 -threads 2 : -np 1 ./rollout serve -threads 2
    way 1+2 mpirun -np 1 ./train $rl -name 1+2 -threads 2 : -np 2 ./rollout serve -threads 1
    way in-place-2 mpirun -np 2 ./train $rl -name in-place-2 -threads 1
    for name in 1+1 1+2; do cmp "$work/in-place/metrics.jsonl" "$work/$name/metrics.jsonl"; done
done
python3 - "$work" "${STEPS:-20}" <<'PYTHON'
import json
import statistics
import sys

WAYS = (("in-place", "in place, 1 rank of 2 threads"), ("1+1", "1 training rank and 1 server, 2 threads each"),
        ("1+2", "1 training rank of 2 threads, 2 servers of 1"), ("in-place-2", "in place, 2 ranks of 1 thread"))
work, steps = sys.argv[1], int(sys.argv[2])
print(f"{'RL of the embedded recipe':46} sampling tok/s (rounds)      whole stage tok/s (rounds)")
for name, title in WAYS:
    read = lambda kind: [json.loads(line) for line in open(f"{work}/{name}.{kind}")]
    metrics, timing = read("metrics"), read("timing")
    rates = {"generate_ms": [], "ms": []}
    for begin in range(0, len(timing), steps):
        # The first step also prepares.
        tokens = sum(line["sampled_tokens"] for line in metrics[begin + 1:begin + steps])
        for key in rates:
            rates[key].append(1e3 * tokens / sum(line[key] for line in timing[begin + 1:begin + steps]))
    cells = [f"{statistics.median(r):6.0f} ({min(r):.0f} to {max(r):.0f})" for r in rates.values()]
    print(f"{title:46} {cells[0]:28} {cells[1]}")
PYTHON
uptime
