#!/bin/sh
# Encoding speed against Hugging Face's tokenizers, one thread each, alternating in one run: ROUNDS rounds, each a
# new process of both, which encodes the text COUNT times. Prints the medians of all encodings, the ratio and its
# spread over rounds, for HF's two ways (one call; pieces without offsets). Builds the Python environment if missing.
#   dev/bench/tokenize.sh TEXT [TOKENIZER.json]
set -eu
text=$(realpath "${1:?give a text}")
tokenizer=$(realpath "${2:-$(dirname "$0")/../../test/golden/bpe/tokenizer.json}")
cd "$(dirname "$0")/../.."
venv=${VENV:-build/venv-tokenize}
rounds=${ROUNDS:-5}
count=${COUNT:-5}
make -s build/bench_tokenize
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import tokenizers' 2>/dev/null || "$venv/bin/pip" install -q tokenizers
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for round in $(seq "$rounds"); do
    OMP_NUM_THREADS=1 build/bench_tokenize "$tokenizer" "$text" "$count" >"$work/ours.$round"
    for mode in whole chunks; do
        "$venv/bin/python" dev/bench/tokenize_peer.py "$tokenizer" "$text" "$count" $mode >"$work/$mode.$round"
    done
done
python3 - "$work" "$rounds" "$(wc -c <"$text")" <<'PYTHON'
import statistics
import sys

work, rounds, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def read(name):
    lines = [open(f"{work}/{name}.{r}").read().split("\n") for r in range(1, rounds + 1)]
    print(f"{name:7} {lines[0][1]}")
    return [[float(s) for s in line[0].split()] for line in lines]


ours = read("ours")
for mode in ("whole", "chunks"):
    peer = read(mode)
    for what, pick in (("all encodings", lambda run: run), ("first of a process", lambda run: run[:1])):
        a = statistics.median(s for run in ours for s in pick(run))
        b = statistics.median(s for run in peer for s in pick(run))
        ratios = [statistics.median(pick(p)) / statistics.median(pick(o)) for o, p in zip(ours, peer)]
        print(f"{mode:7} {what:18} ours {size / a / 1e6:6.1f} MB/s, tokenizers {size / b / 1e6:5.2f} MB/s, "
              f"ratio {b / a:5.1f} (rounds {min(ratios):.1f} to {max(ratios):.1f})")
PYTHON
