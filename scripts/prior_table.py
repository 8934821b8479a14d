#!/usr/bin/env python3
"""Prints the README's tables from the runs of scripts/experiment.sh.

    scripts/prior_table.py [RECIPE.ini] [-runs FOLDER]
"""
import argparse
import json
import pathlib
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe", nargs="?", default="embedded.ini")
parser.add_argument("-runs", default="runs")
arguments = parser.parse_args()
root, recipe = pathlib.Path(arguments.runs), pathlib.Path(arguments.recipe).stem


def evaluation(name, stage):
    path = root / name / "metrics.jsonl"
    if not path.is_file():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "eval" and entry["stage"] == stage:
            return entry
    return None


def rl_table():
    if evaluation(f"{recipe}_seed=1", "rl") is None:
        return
    print("| seed | Avg@16 pretrain | midtrain | rl | held-out error removed by RL | Pass@8 midtrain | rl |")
    print("|---|---|---|---|---|---|---|")
    enough = total = 0
    for seed in range(1, 6):
        stages = [evaluation(f"{recipe}_seed={seed}", stage) for stage in ("pretrain", "midtrain", "rl")]
        if None in stages:
            continue
        pre, mid, rl = stages
        removed = (rl["avg"] - mid["avg"]) / (1 - mid["avg"])
        total += 1
        enough += removed >= 1 / 2
        print(f"| {seed} | {pre['avg']:.3f} | {mid['avg']:.3f} | {rl['avg']:.3f} | {removed:.0%} | "
              f"{mid['pass_8']:.3f} | {rl['pass_8']:.3f} |")
    print(f"\nHalf or more of the error is removed in {enough} of {total} seeds.\n")


PRIORS = (("beta -0.25", "beta=-0.25_"), ("beta 0", ""), ("beta 0.5", "beta=0.5_"),
          ("lambda_tail -0.1", "lambda_tail=-0.1_"), ("lambda_head 0.1", "lambda_head=0.1_"))
SEEDS = (1, 2, 3)


def prior_table():
    found = {(prior, seed): evaluation(f"{recipe}_{name}seed={seed}", "pretrain") for prior, name in PRIORS for seed in SEEDS}
    found = {key: value for key, value in found.items() if value is not None}
    columns = [("val CE", "val_ce", ".4f"), ("val entropy", "val_entropy", ".4f"), ("head mass", "val_head_mass", ".4f"),
               ("tail mass", "val_tail_mass", ".3g"), ("Avg@16", "avg", ".3f")]
    columns = [column for column in columns if all(column[1] in entry for entry in found.values())]
    print("| prior | " + " | ".join(title for title, _, _ in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for prior, _ in PRIORS:
        cells = [" ".join(format(found[prior, seed][key], form) for seed in SEEDS if (prior, seed) in found)
                 for _, key, form in columns]
        print(f"| {prior} | " + " | ".join(cells) + " |")
    print()
    for seed in SEEDS:
        runs = [found.get((prior, seed)) for prior, _ in PRIORS]
        if None in runs:
            continue
        sharp, base, flat, tail, head = runs
        entropies, losses = [e["val_entropy"] for e in (sharp, base, flat)], [e["val_ce"] for e in (sharp, base, flat)]
        print(f"seed {seed}: entropies {'ordered' if sorted(entropies) == entropies else 'NOT ordered'} by beta, "
              f"cross-entropies within {max(losses) / min(losses) - 1:.1%}; "
              f"tail mass x {tail['val_tail_mass'] / base['val_tail_mass']:.3f} with lambda_tail -0.1, "
              f"head mass x {head['val_head_mass'] / base['val_head_mass']:.3f} with lambda_head 0.1")


if not any(root.glob(f"{recipe}_*seed=*/metrics.jsonl")):
    sys.exit(f"prior_table: {root} has no run {recipe}_...seed=N; scripts/experiment.sh makes them")
rl_table()
prior_table()
