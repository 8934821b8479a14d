#!/bin/sh
# Training speed against PyTorch eager fp32 at demo size, alternating in one run: ROUNDS rounds, each both
# programs; prints tokens per second, the ratio of medians and the spread.
#   PYTHON=/path/to/python-with-torch dev/bench/train.sh [MODEL flags, e.g. -model demo]
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
rounds=${ROUNDS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 2000000 /dev/urandom | base64 >"$work/text.txt" # any text: no document boundaries, one row = one document

for round in $(seq "$rounds"); do
    ./train -runs "$work" -name "ours$round" -stages pretrain -model demo -pretrain.data "$work/text.txt" \
        -doc_mask no -batch 16 -context 256 -vocab 512 -pretrain.steps 14 -val_data "$work/text.txt" -val_rows 1 \
        -eval_problems "" -checkpoint_every 0 -k 1 >"$work/log" || { cat "$work/log"; exit 1; }
    ours=$(sed -n 's/.*"ms":\([0-9.]*\),.*/\1/p' "$work/ours$round/timing.jsonl" | tail -n +3 | sort -n |
        awk '{ a[NR] = $1 } END { print 4096e3 / a[int((NR + 1) / 2)] }')
    peer=$("$python" dev/bench/train_peer.py)
    echo "$ours $peer" >>"$work/rounds"
    echo "round $round: ours $ours tok/s, PyTorch $peer tok/s"
done
awk '{ o[NR] = $1; p[NR] = $2; r[NR] = $1 / $2 } END {
    for (i = 1; i <= NR; i++) for (j = i + 1; j <= NR; j++) {
        if (o[j] < o[i]) { t = o[i]; o[i] = o[j]; o[j] = t }
        if (p[j] < p[i]) { t = p[i]; p[i] = p[j]; p[j] = t }
        if (r[j] < r[i]) { t = r[i]; r[i] = r[j]; r[j] = t }
    }
    m = int((NR + 1) / 2)
    printf "medians: ours %.0f, PyTorch %.0f tok/s; ratio %.2f (rounds %.2f to %.2f)\n", o[m], p[m], o[m] / p[m], r[1], r[NR]
}' "$work/rounds"
