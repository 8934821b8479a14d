#!/bin/sh
# Decoding speed at demo size (4 layers, 256 wide, vocabulary 512), 2 threads, against Hugging Face generate() and a
# hand-written PyTorch loop with a static cache, taking turns in one run. For each case, ROUNDS rounds; prints tokens per
# second, the ratios of medians and their range over the rounds.
#   PYTHON=/path/to/python-with-torch-and-transformers CASES="fp32:64 fp32:1 bf16:64" dev/bench/rollout.sh
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
rounds=${ROUNDS:-5}
repeats=${REPEATS:-3} # of a program's start in a round, after one that is not counted
make -s build/bench_rollout
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uptime
for case in ${CASES:-fp32:64 fp32:1 bf16:64}; do
    dtype=${case%:*} sequences=${case#*:}
    for round in $(seq "$rounds"); do
        ours=$(build/bench_rollout "$sequences" 2 256 32 "$repeats" demo "$dtype")
        hf=$("$python" dev/bench/rollout_peer.py hf --sequences "$sequences" --dtype "$dtype" --repeats "$repeats")
        loop=$("$python" dev/bench/rollout_peer.py loop --sequences "$sequences" --dtype "$dtype" --repeats "$repeats")
        echo "${ours%% *} ${hf%% *} ${loop%% *}" >>"$work/$case"
        echo "$case, round $round: ours $ours, generate() $hf, static loop $loop tok/s (median min max)"
    done
    python3 - "$work/$case" "$dtype, $sequences sequences" <<'PYTHON'
import statistics
import sys

rows = [[float(x) for x in line.split()] for line in open(sys.argv[1])]
ours, hf, loop = (statistics.median(column) for column in zip(*rows))
print(f"{sys.argv[2]}, medians: ours {ours:.0f}, generate() {hf:.0f}, static loop {loop:.0f} tok/s")
for name, column, median in (("generate()", 1, hf), ("static loop", 2, loop)):
    ratios = [row[0] / row[column] for row in rows]
    print(f"  against {name}: {ours / median:.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})")
PYTHON
done
uptime
