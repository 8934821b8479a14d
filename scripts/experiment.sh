#!/bin/sh
# The runs behind the README's table: RL over five seeds, and the prior's keys over three. Two runs at a time
# with one thread each (JOBS, THREADS). Complete runs are skipped, interrupted ones resumed, so the command
# can be stopped and repeated. Then: python3 scripts/prior_table.py
set -eu
cd "$(dirname "$0")/.."
train=${TRAIN:-./train}
if [ $# -gt 0 ] || [ ! -x "$train" ]; then
    echo "experiment: takes no arguments (JOBS, THREADS and TRAIN are set before it) and wants $train: make train" >&2
    exit 2
fi
{
    for seed in 1 2 3 4 5; do echo "-seed $seed"; done
    for seed in 1 2 3; do
        for prior in "-beta -0.25" "-beta 0.5" "-lambda_tail -0.1" "-lambda_head 0.1"; do
            echo "-stages pretrain $prior -seed $seed"
        done
    done
} | xargs -P "${JOBS:-2}" -I FLAGS sh -c \
    "$train -threads ${THREADS:-1} FLAGS >/dev/null || echo 'failed: FLAGS'"
