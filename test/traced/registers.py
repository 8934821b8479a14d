"""Registers, spilled bytes and wide accesses of every kernel, as nvcc compiled it.

  python3 test/traced/registers.py BUILD/cuda          compares with test/traced/registers.txt
  python3 test/traced/registers.py BUILD/cuda --write  writes it

Reads what `make cuda-check` leaves: BUILD/cuda/llmc/*/*.txt (ptxas) and *.keep/*.ptx. Registers
differ from one nvcc to the next, so another version than the table's is not compared, nor is a
build for other architectures.
"""
import pathlib
import re
import subprocess
import sys

TABLE = pathlib.Path(__file__).with_name("registers.txt")
OPCODES = {  # column: the PTX instructions that count
    "ld.global.v4": r"\bld\.global(\.\w+)*\.v4\b",
    "st.global.v4": r"\bst\.global(\.\w+)*\.v4\b",
    "ld.shared.v4": r"\bld\.shared(\.\w+)*\.v4\b",
    "st.shared.v4": r"\bst\.shared(\.\w+)*\.v4\b",
    "cp.async": r"\bcp\.async\.cg\b",
    "ldmatrix": r"\bldmatrix\b",
    "mma": r"\bmma\.sync\b",
}
HEADER = """\
# Written by `make registers`, checked by `make cuda-check`. {version}
# registers and spilled bytes by ptxas; then instructions in the kernel's PTX, 16 bytes wide where
# they are loads and stores. A loop counts once, an unrolled one as often as it is unrolled.
# Architectures with the same figures share a line.
"""


def demangled(names):
    out = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True)
    short = []
    for name in out.stdout.splitlines():
        name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
        depth = 0
        for i, letter in enumerate(name):  # up to the parameter list
            depth += {"<": 1, ">": -1}.get(letter, 0)
            if letter == "(" and depth == 0:
                name = name[:i]
                break
        short.append(re.sub(r"\((?:bool|int)\)", "", name).replace(" ", ""))
    return dict(zip(names, short))


def read_ptxas(text):
    """{architecture: {mangled kernel: (registers, spilled bytes)}}"""
    kernels, arch, entry, spilled = {}, None, None, 0
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for 'sm_(\w+)'", line):
            entry, arch, spilled = match[1], match[2], 0
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled += int(match[1]) + int(match[2])
        elif (match := re.search(r"Used (\d+) registers", line)) and entry:
            kernels.setdefault(arch, {})[entry] = (int(match[1]), spilled)
            entry = None
    return kernels


def read_ptx(text):
    """{mangled kernel: (count of each of OPCODES)}"""
    kernels = {}
    for part in re.split(r"\.entry ", text)[1:]:
        body = part[: part.index("\n}")]
        kernels[re.match(r"\w+", part)[0]] = tuple(len(re.findall(p, body)) for p in OPCODES.values())
    return kernels


def table(build):
    lines = {}  # (file, kernel, figures): architectures
    for path in sorted(build.glob("llmc/*/*.txt")):
        for arch, ptxas in sorted(read_ptxas(path.read_text()).items(), key=lambda item: int(item[0])):
            keep = path.with_suffix(".keep")
            listing = keep / f"{path.stem}.compute_{arch}.ptx"
            if not listing.exists():
                listing = keep / f"{path.stem}.ptx"  # of a build for one architecture
            if not listing.exists():
                sys.exit(f"registers: no {listing}: rm -r {build}, then make cuda-check")
            ptx = read_ptx(listing.read_text())
            if ptxas.keys() != ptx.keys():
                sys.exit(f"registers: {path} and {listing.name} name different kernels: make cuda-check")
            names = demangled(sorted(ptxas))
            for mangled, name in names.items():
                row = (path.stem, name, ptxas[mangled] + ptx[mangled])
                lines.setdefault(row, []).append(arch)
    if not lines:
        sys.exit(f"registers: nothing under {build}: run make cuda-check")
    width = max(len(name) for _, name, _ in lines)
    titles = ["regs", "spill", *OPCODES]
    out = f"# {'file: kernel'.ljust(width + 18)} {'sm'.ljust(14)} " + " ".join(titles) + "\n"
    for (stem, name, figures), on in sorted(lines.items(), key=lambda item: (item[0][:2], int(item[1][0]))):
        cells = " ".join(str(f).rjust(len(t)) for f, t in zip(figures, titles))
        out += f"{stem + ': ' + name:<{width + 20}} {' '.join(on):<14} {cells}\n"
    return out


def architectures(text):
    return sorted({arch for line in text.splitlines() if line[0] != "#"
                   for arch in re.match(r".*? {2,}((?:\d+ )+)", line)[1].split()}, key=int)


def main():
    build = pathlib.Path(sys.argv[1])
    version = subprocess.run(["nvcc", "--version"], text=True, capture_output=True, check=True).stdout
    version = "nvcc " + re.search(r"V([\d.]+)", version)[1]
    found = HEADER.format(version=version) + table(build)
    if "--write" in sys.argv[2:]:
        TABLE.write_text(found)
        print(f"registers: wrote {TABLE}")
        return
    if not TABLE.exists():
        print(f"registers: not compared, there is no {TABLE.name} yet: make registers writes it")
        return
    committed = TABLE.read_text()
    theirs = re.search(r"nvcc [\d.]+", committed)[0]
    if theirs != version:
        print(f"registers: not compared, {TABLE.name} is of {theirs}, this is {version}")
        return
    if architectures(found) != architectures(committed):
        print(f"registers: not compared, {TABLE.name} is of sm {', '.join(architectures(committed))}")
        return
    if found == committed:
        print(f"registers: {len(found.splitlines()) - 5} lines as in {TABLE.name}")
        return
    old, new = set(committed.splitlines()), set(found.splitlines())
    print(f"registers: {TABLE} (-) and what nvcc made (+) differ; if it is meant: make registers")
    print("\n".join([f"- {line}" for line in sorted(old - new)] + [f"+ {line}" for line in sorted(new - old)]))
    sys.exit(1)


if __name__ == "__main__":
    main()
