#!/usr/bin/env python3
"""Draws one or several run folders as one self-contained HTML page.

    scripts/report.py RUN [RUN ...] [-o report.html]

Reads RUN/metrics.jsonl: lines of kind "step" are curves, lines of kind "eval" are the table. Runs that
are still going, or were cut in the middle of a line, are drawn as far as they got.
"""
import argparse
import html
import io
import json
import pathlib
import sys

try:
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("report: matplotlib is missing; run scripts/setup.sh or install python3-matplotlib")

CURVES = [  # key, title, logarithmic
    ("loss", "cross-entropy, nats per token", True),
    ("entropy", "entropy of the next token, nats", True),
    ("head_mass", "head mass: wrong tokens inside the top k", True),
    ("tail_mass", "tail mass: wrong tokens outside it", True),
    ("reward", "reward: share of right answers", False),
    ("length", "answer length, tokens", False),
    ("kept_share", "kept groups, share", False),
    ("grad_norm", "gradient norm", True),
    ("lr", "learning rate", False),
    ("max_vio", "MaxVio, worst layer", True),
]
TABLE = [("val_ce", "val CE"), ("val_entropy", "val entropy"), ("bits_per_byte", "bits/byte"),
         ("val_head_mass", "head mass"), ("val_tail_mass", "tail mass"), ("avg", "Avg@n"),
         ("pass_8", "Pass@8"), ("cons", "Cons@n"), ("answered", "answered"), ("answer_length", "length")]
STAGES = ("pretrain", "midtrain", "rl")


def read_run(folder):
    path = folder / "metrics.jsonl"
    if not path.is_file():
        sys.exit(f"report: {path} does not exist; give the folder of a run, e.g. runs/embedded")
    steps, evals = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that is being written
        if entry.get("kind") == "step":
            steps.append(entry)
        elif entry.get("kind") == "eval":
            evals.append(entry)
    return {"name": folder.resolve().name, "steps": steps, "evals": evals}


def smooth(values, width):
    out, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        out.append(total / min(i + 1, width))
    return out


def curve(runs, key, title, logarithmic):
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    drawn = False
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for i, run in enumerate(runs):
        points = [(e["global_step"], e[key]) for e in run["steps"]
                  if isinstance(e.get(key), (int, float)) and (not logarithmic or e[key] > 0)]
        if not points:
            continue
        drawn = True
        x, y = zip(*points)
        color = colors[i % len(colors)]
        if len(y) > 60:
            axis.plot(x, y, color=color, alpha=0.2, linewidth=0.7)
        axis.plot(x, smooth(y, max(1, len(y) // 60)), color=color, linewidth=1.3, label=run["name"])
    for stage in STAGES[1:]:  # where stages begin, by the first run
        first = [e["global_step"] for e in runs[0]["steps"] if e["stage"] == stage]
        if first:
            axis.axvline(first[0], color="grey", linewidth=0.6, linestyle=":")
    if not drawn:
        plt.close(figure)
        return ""
    if logarithmic:
        axis.set_yscale("log")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("optimizer step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2)
    if len(runs) > 1:
        axis.legend(fontsize=7)
    text = io.StringIO()
    figure.tight_layout()
    figure.savefig(text, format="svg")
    plt.close(figure)
    svg = text.getvalue()
    return f'<figure>{svg[svg.index("<svg"):]}</figure>'


def table(runs):
    head = "".join(f"<th>{html.escape(title)}</th>" for _, title in TABLE)
    rows = []
    for run in runs:
        for entry in run["evals"]:
            cells = "".join(
                f'<td>{entry[key]:.4g}</td>' if isinstance(entry.get(key), (int, float)) else "<td>-</td>"
                for key, _ in TABLE)
            rows.append(f'<tr><th>{html.escape(run["name"])}</th><th>{html.escape(entry["stage"])}</th>{cells}</tr>')
    return f"<table><tr><th>run</th><th>after</th>{head}</tr>{''.join(rows)}</table>"


def main():
    parser = argparse.ArgumentParser(description="Draws run folders as one HTML page.")
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="run folders")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("report.html"))
    arguments = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "prior.cu"  # equal runs draw equal files
    runs = [read_run(folder) for folder in arguments.runs]
    if not any(run["steps"] for run in runs):
        sys.exit("report: no steps yet")
    figures = "".join(curve(runs, *entry) for entry in CURVES)
    names = ", ".join(html.escape(run["name"]) for run in runs)
    arguments.output.write_text(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>prior.cu: {names}</title>
<style>body {{ font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 1340px; padding: 0 1em }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .25em .7em; text-align: right;
border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }} figure {{ display: inline-block; margin: .3em }}
</style></head><body><h1>{names}</h1>
<p>Held-out text and problems after every stage; dotted lines show where stages begin.</p>
{table(runs)}{figures}</body></html>
""", encoding="utf-8")


if __name__ == "__main__":
    main()
