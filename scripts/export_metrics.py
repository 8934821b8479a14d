#!/usr/bin/env python3
"""metrics.jsonl for other viewers.

    scripts/export_metrics.py RUN... -tensorboard FOLDER     then: tensorboard --logdir FOLDER
    scripts/export_metrics.py RUN... -wandb PROJECT          (pip install wandb; WANDB_MODE=offline works)
    scripts/export_metrics.py RUN... -csv FILE

Every number of every line under stage/name (steps) or eval/name, over the global step; with timing.jsonl also
milliseconds and tokens per second. TensorBoard files need nothing but Python: events are written in their format here.
The same run exported again replaces its events. -follow goes on while the run does.
"""
import argparse
import csv
import json
import pathlib
import shutil
import struct
import sys
import time


def crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc32c_table()


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk(field, data):  # a length-delimited protobuf field
    return varint(field << 3 | 2) + varint(len(data)) + data


class TensorBoard:
    """A TFRecord file of Event protobufs: wall_time = 1, step = 2, file_version = 3, summary = 5 { value = 1 { tag = 1,
    simple_value = 2 } }."""

    def __init__(self, folder, run):
        target = pathlib.Path(folder) / run
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        self.file = open(target / f"events.out.tfevents.{int(time.time())}.prior", "wb")
        self.write(struct.pack("<Bd", 9, time.time()) + chunk(3, b"brain.Event:2"))

    def write(self, event):
        length = struct.pack("<Q", len(event))
        self.file.write(length + struct.pack("<I", masked_crc(length)) + event + struct.pack("<I", masked_crc(event)))

    def add(self, step, values):
        summary = b"".join(chunk(1, chunk(1, name.encode()) + struct.pack("<Bf", 2 << 3 | 5, value))
                           for name, value in values.items())
        self.write(struct.pack("<Bd", 9, time.time()) + b"\x10" + varint(step) + chunk(5, summary))
        self.file.flush()


class WandB:
    def __init__(self, project, run, recipe):
        try:
            import wandb
        except ImportError:
            sys.exit("no wandb in this Python; pip install wandb")
        self.run = wandb.init(project=project, name=run, id=run, resume="allow", reinit=True, config={"recipe": recipe})

    def add(self, step, values):
        self.run.log(values, step=step)


class Csv:
    def __init__(self, path, run):
        self.rows, self.path, self.run = [], path, run
        new = not pathlib.Path(path).exists()
        self.file = open(path, "a", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        if new:
            self.writer.writerow(["run", "global_step", "name", "value"])

    def add(self, step, values):
        self.writer.writerows([self.run, step, name, value] for name, value in values.items())
        self.file.flush()


def numbers(line):
    group = "eval" if line.get("kind") == "eval" else line.get("stage", "run")
    skipped = ("step", "global_step", "stage", "kind")
    values = {f"{group}/{k}": float(v) for k, v in line.items()
              if k not in skipped and isinstance(v, (int, float)) and not isinstance(v, bool)}
    if "ms" in line and line.get("tokens") and line["ms"] > 0:
        values[f"{group}/tok_per_s"] = 1000 * line["tokens"] / line["ms"]
    return values


class Tail:
    """Whole lines of a growing file."""

    def __init__(self, path):
        self.path, self.at = path, 0

    def lines(self):
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.at += len(line)
                yield json.loads(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("-tensorboard", metavar="FOLDER")
    parser.add_argument("-wandb", metavar="PROJECT")
    parser.add_argument("-csv", metavar="FILE")
    parser.add_argument("-follow", action="store_true")
    a = parser.parse_args()
    if not (a.tensorboard or a.wandb or a.csv):
        parser.error("one of -tensorboard, -wandb, -csv")
    jobs = []
    for run in map(pathlib.Path, a.runs):
        if not (run / "metrics.jsonl").exists():
            sys.exit(f"{run}: no metrics.jsonl; a run folder has one")
        name = run.resolve().name
        sinks = [TensorBoard(a.tensorboard, name)] if a.tensorboard else []
        sinks += [WandB(a.wandb, name, (run / "recipe.ini").read_text())] if a.wandb else []
        sinks += [Csv(a.csv, name)] if a.csv else []
        jobs.append((sinks, [Tail(run / "metrics.jsonl"), Tail(run / "timing.jsonl")]))
    written = 0
    while True:
        for sinks, tails in jobs:
            for tail in tails:
                for line in tail.lines():
                    values = numbers(line)
                    for sink in sinks:
                        if values:
                            sink.add(int(line.get("global_step", line.get("step", 0))), values)
                    written += len(values)
        if not a.follow:
            break
        time.sleep(5)
    print(f"{written} values of {len(jobs)} run{'s' if len(jobs) > 1 else ''}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"export_metrics: {error.filename}: {error.strerror}")
