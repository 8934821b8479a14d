#!/usr/bin/env python3
"""Training and loss against PyTorch: both sides in turn in one run, on the same weights and data.

    PYTHON=/path/to/python-with-torch dev/bench/train.py [--rows demo/fp32,loss/1024x50304/bf16,...]

Without PYTHON an environment with PyTorch, transformers and safetensors is made in build/venv-train. The first round
tries every variant of PyTorch (eager and compiled; plain module and transformers'; stock and tuned malloc; bf16 by
autocast and throughout) for --screen steps; the rounds that count measure ours and those within --near of the best,
which is the bar, in turn, and ours with -recompute selective too. In fp32 the losses of both sides are compared step by
step. Prints medians over rounds, their range, the ratio and peak memory.

With --log FILE every measurement is kept there and none is repeated: with --seconds N a run begins no more of them
after N seconds and exits with 3, and the same command goes on where it stopped, or only prints what the log holds.
"""
import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEER = os.path.join(ROOT, "dev/bench/train_peer.py")
# glibc keeps big blocks and backs them with huge pages: page faults dominate the stock figures of large tensors.
TUNED = "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"

MODELS = {  # flags of ./train, rows and tokens of a step, what to reach in fp32 and bf16
    "demo": (["-model", "demo"], 16, 256, 2.0, 1.5),
    "114M": (["-model", "demo", "-layers", "12", "-channels", "768", "-ffn", "2048", "-heads", "12", "-kv_heads", "4",
              "-vocab", "50304"], 4, 256, 2.0, 1.3),
    "demo-moe": (["-model", "demo-moe"], 16, 256, 2.5, 2.5),
}
ROWS = [f"{model}/{precision}" for model in MODELS for precision in ("fp32", "bf16")]
ROWS += [f"loss/{shape}/{precision}" for shape in ("1024x50304", "256x151936") for precision in ("fp32", "bf16")]


def python_with_torch():
    if os.environ.get("PYTHON"):
        return os.environ["PYTHON"]
    venv = os.path.join(ROOT, "build/venv-train")
    python = os.path.join(venv, "bin/python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    if subprocess.run([python, "-c", "import torch, transformers, safetensors"], stderr=subprocess.DEVNULL).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", "torch", "transformers", "safetensors", "numpy"], check=True)
    return python


def run(command, tuned=False):
    """Standard output and peak resident MiB of a command."""
    env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=os.path.join(ROOT, "build/inductor"), HF_HUB_OFFLINE="1",
               TOKENIZERS_PARALLELISM="false")
    if tuned:
        env["GLIBC_TUNABLES"] = TUNED
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env=env, cwd=ROOT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text = out.read()
        if child.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {child.returncode}\n{text}{err.read()}")
        return text, usage.ru_maxrss / 1024


class TrainRow:
    """Both sides train `model` from the weights of one checkpoint on the bytes of one text."""

    unit = "tok/s"
    selective = ("ours selective", ["-recompute", "selective"])

    def __init__(self, name, a, work, python):
        self.name, self.a, self.work, self.python = name, a, work, python
        self.model, self.precision = name.split("/")
        flags, self.batch, self.context, fp32, bf16 = MODELS[self.model]
        self.target = fp32 if self.precision == "fp32" else bf16
        self.text = os.path.join(work, f"{self.model}.txt")
        rng = random.Random(1)
        letters = "".join(rng.choices("abcdefghij    ", k=self.batch * self.context * a.steps + 1))
        with open(self.text, "w") as file:
            file.write(letters)
        with open(self.text + ".jsonl", "w") as file:
            file.write(json.dumps({"text": letters}) + "\n")
        self.flags = flags + ["-stages", "pretrain", "-pretrain.data", self.text + ".jsonl", "-val_fraction", "0",
                              "-doc_mask", "no", "-batch", str(self.batch), "-context", str(self.context), "-warmup",
                              "0", "-decay", "0", "-pretrain.steps", "1000000", "-threads", str(a.threads),
                              "-runs", work, "-eval_problems", "", "-checkpoint_every", "0", "-bias_rate", "0"]
        self.start = os.path.join(work, f"{self.model}-start")
        if not os.path.exists(self.start):  # a step of size 0 leaves the weights as they were drawn
            self.ours_run("weights", ["-lr", "0", "-stop_after", "1"])
            ckpt = os.path.join(work, "weights/ckpt")
            shutil.copytree(os.path.join(ckpt, os.listdir(ckpt)[0]), self.start)
            shutil.rmtree(os.path.join(work, "weights"))

    def ours_run(self, name, extra):
        _, rss = run([os.path.join(ROOT, "train"), *self.flags, "-name", name, *extra])
        return rss

    def ours(self, steps, extra=()):
        dtype = ["-dtype", self.precision]
        rss = self.ours_run("ours", ["-init", self.start, "-lr", "1e-3", "-stop_after", str(steps), *dtype, *extra])
        folder = os.path.join(self.work, "ours")
        with open(folder + "/timing.jsonl") as file:
            seconds = [json.loads(line)["ms"] / 1e3 for line in file]
        with open(folder + "/metrics.jsonl") as file:
            losses = [json.loads(line)["loss"] for line in file]
        shutil.rmtree(folder)
        return self.rate(seconds), rss, losses, None

    def rate(self, seconds):
        return self.batch * self.context / statistics.median(seconds[2:])

    def variants(self):
        experts = ["loop", "grouped"] if self.model.endswith("moe") else ["loop"]
        for precision in ["fp32"] if self.precision == "fp32" else ["amp", "bf16"]:
            for form in ("plain", "hf"):
                for mode in ("eager", "compile"):
                    for kind in experts if form == "plain" else experts[:1]:
                        for tuned in (False, True):
                            yield {"form": form, "mode": mode, "precision": precision, "experts": kind, "tuned": tuned}

    def peer(self, v, steps):
        text, rss = run([self.python, PEER, "train", self.start, self.text, "--form", v["form"], "--mode", v["mode"],
                         "--precision", v["precision"], "--experts", v["experts"], "--steps", str(steps),
                         "--batch", str(self.batch), "--context", str(self.context), "--threads",
                         str(self.a.threads)], v["tuned"])
        result = json.loads(text.strip().split("\n")[-1])
        return self.rate(result["seconds"]), rss, result["losses"], None

    @staticmethod
    def label(v):
        parts = [v["form"], v["mode"], v["precision"], v["experts"] if v["experts"] == "grouped" else "",
                 "tuned" if v["tuned"] else ""]
        return " ".join(p for p in parts if p)


class LossRow:
    """The shaped objective; the bar of cross-entropy alone comes beside it."""

    unit = "row/s"
    target = 6.0
    selective = None

    def __init__(self, name, a, work, python):
        self.name, self.a, self.python = name, a, python
        _, shape, self.precision = name.split("/")
        self.rows, self.vocab = map(int, shape.split("x"))

    def rate(self, seconds):
        return self.rows / statistics.median(seconds)

    def ours(self, steps):
        text, rss = run([os.path.join(ROOT, "build/bench_loss"), str(self.rows), str(self.vocab), self.precision,
                         str(steps), str(self.a.threads)])
        times = {line.split()[0]: [float(x) / 1e3 for x in line.split()[1:]] for line in text.strip().split("\n")}
        return self.rate(times["loss"]), rss, None, statistics.median(times["pass"])

    def variants(self):
        for form in ("natural", "closed", "ce"):
            for mode in ("eager", "compile"):
                yield {"form": form, "mode": mode, "tuned": True}

    def peer(self, v, steps):
        text, rss = run([self.python, PEER, "loss", str(self.rows), str(self.vocab), "--form", v["form"], "--mode",
                         v["mode"], "--precision", self.precision, "--steps", str(steps), "--threads",
                         str(self.a.threads)], v["tuned"])
        return self.rate(json.loads(text.strip().split("\n")[-1])["seconds"][2:]), rss, None, None

    @staticmethod
    def label(v):
        return f"{v['form']} {v['mode']} tuned"


class Measurements:
    """What was measured, by (row, round, label): [rate, MiB, losses or None, seconds of a pass or None]."""

    def __init__(self, a):
        self.path, self.end, self.known = a.log, time.monotonic() + a.seconds, {}
        if self.path and os.path.exists(self.path):
            with open(self.path) as file:
                self.known = {tuple(key): value for key, value in map(json.loads, file)}

    def take(self, key, measure):
        if key not in self.known:
            if time.monotonic() > self.end:
                sys.exit(3)
            self.known[key] = measure()
            if self.path:
                with open(self.path, "a") as file:
                    file.write(json.dumps([key, self.known[key]]) + "\n")
            print(f"  {key[0]} round {key[1]}: {key[2]} {self.known[key][0]:.0f}", flush=True)
        return self.known[key]


def near_best(row, chosen, rates, near):
    """Of the objective, and of cross-entropy alone, the variants `near` the best one."""
    keep = []
    for ce in (False, True):
        group = [v for v in chosen if (v["form"] == "ce") == ce and row.label(v) in rates]
        best = max([rates[row.label(v)] for v in group], default=0)
        keep += [v for v in group if rates[row.label(v)] > best * (1 - near)]
    return keep


def compare(row, a, measurements):
    """Rounds of both sides. Returns {label: rates}, {label: MiB}, worst loss difference and pass times."""
    rates, memory, worst, passes = {}, {}, 0.0, []
    chosen = [v for v in row.variants() if not a.variants or all(w in row.label(v).split() for w in a.variants.split())]
    for round_ in range(a.rounds + 1):
        steps = a.steps if round_ else a.screen
        mine = measurements.take((row.name, round_, "ours"), lambda steps=steps: row.ours(steps))
        found = {"ours": mine}
        if row.selective:
            label, extra = row.selective
            found[label] = measurements.take((row.name, round_, label), lambda steps=steps: row.ours(steps, extra))
        for v in chosen:
            def peer(v=v, steps=steps):
                try:
                    return row.peer(v, steps)
                except RuntimeError as error: # a variant that PyTorch does not run is none
                    print(f"{row.name}: {row.label(v)}: {str(error).strip().splitlines()[-1][:150]}", file=sys.stderr)
                    return 0, 0, None, None
            found[row.label(v)] = measurements.take((row.name, round_, row.label(v)), peer)
        for label, (_, rss, losses, pass_s) in found.items():
            memory[label] = max(rss, memory.get(label, 0))
            if losses and row.precision == "fp32":
                worst = max([worst] + [abs(x - y) for x, y in zip(losses, mine[2])])
            passes += [pass_s] if pass_s else []
        if round_ == 0:
            chosen = near_best(row, chosen, {label: x[0] for label, x in found.items()}, a.near)
            continue
        for label, x in found.items():
            rates.setdefault(label, []).append(x[0])
    return rates, memory, worst, passes


def span(rates):
    return f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"


def report(row, a, result):
    rates, memory, worst, passes = result
    mine = statistics.median(rates["ours"])
    peers = {label: x for label, x in rates.items() if not label.startswith("ours")}

    def line(labels, target, ours="ours"):
        best = max(labels, key=lambda label: statistics.median(peers[label]))
        ratio = statistics.median(rates[ours]) / statistics.median(peers[best])
        text = f"| {row.name + ours[4:]} | {span(rates[ours])} | {span(peers[best])} | {best} | {ratio:.2f} | {target} "
        return text + f"| {memory[ours]:.0f} | {memory[best]:.0f} | {100 * memory[ours] / memory[best]:.0f} % |"
    if isinstance(row, LossRow):
        lines = [line(group, target) for group, target in (([p for p in peers if p[:2] != "ce"], 6.0),
                                                           ([p for p in peers if p[:2] == "ce"], 1.4)) if group]
        one = statistics.median(passes)
        return lines, f"{row.name}: {1e3 * row.rows / mine:.2f} ms, one in-place pass {1e3 * one:.2f} ms: " \
                      f"{row.rows / mine / one:.1f} passes"
    note = f"{row.name}: losses of both sides differ by at most {worst:.1e} over {a.steps} steps" \
        if row.precision == "fp32" else ""
    if row.precision == "fp32" and worst > 1e-4:
        note += " -- NOT THE SAME WORK"
    return [line(list(peers), row.target, ours) for ours in ("ours", row.selective[0])], note


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps (or calls of the loss) of one process")
    parser.add_argument("--screen", type=int, default=4, help="the same of the first round, which only chooses")
    parser.add_argument("--log", default="", help="measurements already made, and to be made")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--near", type=float, default=0.1, help="variants this close to the best are measured")
    parser.add_argument("--variants", default="", help='words a variant must have, e.g. "compile tuned"')
    a = parser.parse_args()
    names = a.rows.split(",")
    for name in names:
        if name not in ROWS:
            sys.exit(f"train.py: no row {name}\nhint: rows are {', '.join(ROWS)}")
    python = python_with_torch()
    subprocess.run(["make", "-s", "train", "build/bench_loss"], cwd=ROOT, check=True)
    measurements = Measurements(a)
    lines, notes = [], [f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {a.threads} threads"]
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            row = (LossRow if name.startswith("loss/") else TrainRow)(name, a, work, python)
            more, note = report(row, a, compare(row, a, measurements))
            lines += more
            notes += [note] if note else []
    print("\n| row | ours (range) | PyTorch (range) | its best variant | ratio | aim | MiB | PyTorch | share |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(lines + [""] + notes))


if __name__ == "__main__":
    main()
