#!/usr/bin/env python3
"""Checks the house: layers, third-party includes, #if, sizes, ASCII, line length, formatting.

Errors exit 1; sizes only warn. `make lint` runs it.
"""
import pathlib
import re
import shutil
import subprocess
import sys

LAYER = {"core": 0, "device": 1, "ops": 2, "model": 3, "data": 4, "rollout": 4, "train": 5}
THIRD_PARTY = ("nlohmann/", "xxhash", "oneapi/", "mpi.h", "cuda", "cublas", "nccl", "pcre2", "utf8proc")
MAX_FILE, MAX_MAIN, MAX_FUNCTION, MAX_COLUMNS = 600, 450, 80, 100

root = pathlib.Path(__file__).resolve().parent.parent
errors, warnings = [], []


def sources():
    for pattern in ("llmc/**/*", "data/**/*", "test/**/*", "dev/**/*", "*"):
        for path in sorted(root.glob(pattern)):
            if path.suffix in (".h", ".cpp", ".cu", ".cuh") and path.is_file():
                yield path


def check_includes(name, lines):
    parts = pathlib.PurePath(name).parts
    layer = parts[1] if parts[0] == "llmc" else None
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s+["<]([^">]+)[">]', line)
        if not match:
            continue
        include = match.group(1)
        if include.startswith("llmc/") and layer:
            other = include.split("/")[1]
            if LAYER[other] > LAYER[layer]:
                errors.append(f"{name}:{number}: {layer} includes {other}, a higher layer")
            if layer == "data" and other == "rollout":
                errors.append(f"{name}:{number}: data includes rollout")
            if layer == "ops" and other == "ops":
                family = include.split("/")[2].split(".")[0]
                own = pathlib.PurePath(name).stem  # loss_cpu.cpp and loss_topk.cuh are of one family
                if family != "dispatch" and own.split("_")[0] != family.split("_")[0]:
                    errors.append(f"{name}:{number}: ops/{own} includes another op, {family}")
        if layer and layer not in ("core", "device") and include.startswith(THIRD_PARTY):
            errors.append(f"{name}:{number}: third-party include outside core and device: {include}")


def check_text(name, lines):
    layer = pathlib.PurePath(name).parts[1] if name.startswith("llmc/") else ""
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            errors.append(f"{name}:{number}: not ASCII")
        if len(line) > MAX_COLUMNS:
            errors.append(f"{name}:{number}: {len(line)} columns, at most {MAX_COLUMNS}")
        if layer and layer not in ("core", "device") and re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b", line):
            errors.append(f"{name}:{number}: #if outside core and device")
        if re.search(r"\bTODO\b|\bFIXME\b|\bXXX\b", line):
            errors.append(f"{name}:{number}: TODO: write it into dev/LOG.md or do it")


def check_sizes(name, lines):
    limit = MAX_MAIN if name.endswith("_gpt.cu") else MAX_FILE
    if len(lines) > limit:
        warnings.append(f"{name}: {len(lines)} lines, at most {limit}")
    start = indent = None
    for number, line in enumerate(lines, 1):  # a function ends with "}" under its first character
        begin = re.match(r"^(    )?[A-Za-z~].*[^=] \{$", line)
        if begin and start is None and "= [" not in line and "](" not in line and not re.match(
                r"^ *(template <.*> )?(namespace|class|struct|enum|union|extern|if|for|while|else|do|switch|case|return|auto)\b", line):
            start, indent = number, begin.group(1) or ""
        elif start and line == indent + "}":
            if number - start > MAX_FUNCTION:
                warnings.append(f"{name}:{start}: function of {number - start} lines, at most {MAX_FUNCTION}")
            start = None


def check_format(paths):
    tool = shutil.which("clang-format") or shutil.which("clang-format-14")
    if not tool:
        return
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout
    if "version 14." not in version:  # other versions break lines elsewhere
        return
    result = subprocess.run([tool, "--dry-run", "-Werror", *map(str, paths)], capture_output=True, text=True,
                            check=False)
    for line in result.stderr.splitlines():
        if "error:" in line:
            errors.append(line.replace(str(root) + "/", ""))


def main():
    paths = list(sources())
    for path in paths:
        name = path.relative_to(root).as_posix()
        lines = path.read_text(encoding="utf-8").split("\n")
        check_includes(name, lines)
        check_text(name, lines)
        check_sizes(name, lines)
    check_format(paths)
    for warning in warnings:
        print(f"warning: {warning}")
    for error in errors:
        print(f"error: {error}")
    print(f"lint: {len(paths)} files, {len(errors)} errors, {len(warnings)} warnings")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
