#!/bin/sh
# The runs behind the README's tables. Two at a time with one thread each (JOBS, THREADS). Complete runs are skipped,
# interrupted ones resumed, so the command can be stopped and repeated.
#   scripts/experiment.sh            the embedded recipe: RL over five seeds, the prior's keys over three
#   scripts/experiment.sh FILE       another recipe: the prior's keys over three seeds, pre-training only
# Then: python3 scripts/prior_table.py [FILE]
set -eu
cd "$(dirname "$0")/.."
train=${TRAIN:-./train}
if [ $# -gt 1 ] || [ ! -x "$train" ] || { [ $# -eq 1 ] && [ ! -f "$1" ]; }; then
    echo "experiment: takes at most a recipe file (JOBS, THREADS and TRAIN are set before it) and wants $train: make train" >&2
    exit 2
fi
train="$train -threads ${THREADS:-1}"
[ $# -eq 0 ] || train="$train -recipe $1"
{
    for seed in 1 2 3 4 5; do [ $# -gt 0 ] || echo "-seed $seed"; done
    for seed in 1 2 3; do
        for prior in "" "-beta -0.25" "-beta 0.5" "-lambda_tail -0.1" "-lambda_head 0.1"; do
            [ $# -eq 0 ] && [ -z "$prior" ] || echo "-stages pretrain $prior -seed $seed"
        done
    done
} | xargs -P "${JOBS:-2}" -I FLAGS sh -c "$train FLAGS >/dev/null || echo 'failed: FLAGS'"
