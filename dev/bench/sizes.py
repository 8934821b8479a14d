#!/usr/bin/env python3
"""Cost against size: training tokens/s of ./train for T = 256 ... 16384, 1 and 2 threads, 1, 2 and 4 ranks and
E = 8 ... 384 experts, each beside the first of its row. Prints a table; with -o FILE.svg and matplotlib also draws it.

    dev/bench/sizes.py [--parts context,threads,ranks,experts] [--steps 5] [-o doc/cost.svg]
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def tok_per_s(work, steps, tokens, flags, ranks=1):
    """Median over the steps after the first of one run on `tokens` tokens a step."""
    text = os.path.join(work, "text.jsonl")
    name = f"run{random.random()}"
    command = [os.path.join(ROOT, "train"), "-stages", "pretrain", "-pretrain.data", text, "-val_fraction", "0",
               "-doc_mask", "no", "-warmup", "0", "-pretrain.steps", "1000000", "-stop_after", str(steps + 1), "-runs",
               work, "-name", name, "-eval_problems", "", "-checkpoint_every", "0", *flags]
    if ranks > 1:
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    with open(os.path.join(work, name, "timing.jsonl")) as file:
        ms = [json.loads(line)["ms"] for line in file]
    return tokens / statistics.median(ms[1:]) * 1e3


def measure(a, work):
    cores = len(os.sched_getaffinity(0))
    with open(os.path.join(work, "text.jsonl"), "w") as file:
        file.write(json.dumps({"text": "".join(random.Random(1).choices("abcdefghij    ", k=16384 * (a.steps + 2)))}))
    demo, small = ["-model", "demo"], ["-batch", "16", "-context", "256"]
    points = {"context": [(T, 16384, ["-batch", str(16384 // T), "-context", str(T), *demo, "-pass_rows", "16384"], 1)
                          for T in (256, 1024, 4096, 16384)],
              "threads": [(t, 4096, [*demo, *small, "-threads", str(t)], 1) for t in range(1, cores + 1)],
              "ranks": [(r, 4096, [*demo, *small, "-threads", "1"], r) for r in (1, 2, 4)],
              "experts": [(E, 4096, ["-model", "demo-moe", *small, "-experts", str(E)], 1)
                          for E in (8, 32, 128, 384)]}
    title = {"context": "T, tokens of a row (16384 a step)", "threads": "threads", "experts": "E, experts (top 4)",
             "ranks": f"ranks of one thread, {cores} cores"}
    table = {}
    for part in a.parts.split(","):
        for value, tokens, flags, ranks in points[part]:
            rate = tok_per_s(work, a.steps, tokens, flags, ranks)
            table.setdefault(title[part], []).append((value, rate))
            print(f"  {part} {value}: {rate:.0f} tok/s", flush=True)
    return table


def draw(table, path):
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(table), figsize=(3 * len(table), 2.6), squeeze=False)
    for axis, (title, points) in zip(axes[0], table.items()):
        axis.plot(range(len(points)), [rate for _, rate in points], "o-")
        axis.set_xticks(range(len(points)), [str(value) for value, _ in points])
        axis.set_xlabel(title, fontsize=8)
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("tokens/s")
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="context,threads,ranks,experts")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("-o", dest="out", default="")
    a = parser.parse_args()
    subprocess.run(["make", "-s", "train"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as work:
        table = measure(a, work)
    print("\n| size | tokens/s |\n|---|---|")
    for title, points in table.items():
        text = ", ".join(f"{value}: {rate:.0f} ({rate / points[0][1]:.2f})" for value, rate in points)
        print(f"| {title} | {text} |")
    if a.out:
        draw(table, a.out)


if __name__ == "__main__":
    main()
