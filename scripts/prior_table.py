#!/usr/bin/env python3
"""Prints the README's tables from the runs of scripts/experiment.sh.

    scripts/prior_table.py [RUNS_FOLDER]
"""
import json
import pathlib
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "runs")


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
    print("| seed | Avg@16 pretrain | midtrain | rl | held-out error removed by RL | Pass@8 midtrain | rl |")
    print("|---|---|---|---|---|---|---|")
    enough = total = 0
    for seed in range(1, 6):
        stages = [evaluation(f"embedded_seed={seed}", stage) for stage in ("pretrain", "midtrain", "rl")]
        if None in stages:
            continue
        pre, mid, rl = stages
        removed = (rl["avg"] - mid["avg"]) / (1 - mid["avg"])
        total += 1
        enough += removed >= 1 / 2
        print(f"| {seed} | {pre['avg']:.3f} | {mid['avg']:.3f} | {rl['avg']:.3f} | {removed:.0%} | "
              f"{mid['pass_8']:.3f} | {rl['pass_8']:.3f} |")
    print(f"\nHalf or more of the error is removed in {enough} of {total} seeds.\n")


def prior_table():
    print("| prior | seed | val CE | val entropy | head mass | tail mass | Avg@16 |")
    print("|---|---|---|---|---|---|---|")
    found = {}
    for prior, name in (("beta -0.25", "beta=-0.25_"), ("beta 0", ""), ("beta 0.5", "beta=0.5_"),
                        ("lambda_tail -0.1", "lambda_tail=-0.1_"), ("lambda_head 0.1", "lambda_head=0.1_")):
        for seed in (1, 2, 3):
            e = evaluation(f"embedded_{name}seed={seed}", "pretrain")
            if e is None:
                continue
            found[prior, seed] = e
            print(f"| {prior} | {seed} | {e['val_ce']:.4f} | {e['val_entropy']:.4f} | {e['val_head_mass']:.4f} | "
                  f"{e['val_tail_mass']:.2e} | {e['avg']:.3f} |")
    print()
    for seed in (1, 2, 3):
        runs = [found.get((prior, seed)) for prior in ("beta -0.25", "beta 0", "beta 0.5")]
        if None not in runs:
            entropies, losses = [e["val_entropy"] for e in runs], [e["val_ce"] for e in runs]
            print(f"seed {seed}: entropies {'ordered' if sorted(entropies) == entropies else 'NOT ordered'}, "
                  f"cross-entropies within {max(losses) / min(losses) - 1:.1%}", end="")
            base, tail, head = runs[1], found.get(("lambda_tail -0.1", seed)), found.get(("lambda_head 0.1", seed))
            if tail and head:
                print(f"; tail mass x {tail['val_tail_mass'] / base['val_tail_mass']:.3f} with lambda_tail -0.1, "
                      f"head mass x {head['val_head_mass'] / base['val_head_mass']:.2f} with lambda_head 0.1", end="")
            print()


if not any(root.glob("embedded_*seed=*/metrics.jsonl")):
    sys.exit(f"prior_table: {root} has no run embedded_...seed=N; scripts/experiment.sh makes them")
rl_table()
prior_table()
