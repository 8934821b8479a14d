#!/usr/bin/env python3
"""Files of a public data set into a folder: those that are missing, each whole or not at all.

    data/fetch.py REPOSITORY PATH FOLDER [-files N] [-suffix .parquet]

REPOSITORY is a data set of huggingface.co, PATH a folder in it. Without a network what lies in FOLDER is what there is:
copy the files there by hand. Prints the files, one a line. The scripts beside this one name known corpora.
"""
import argparse
import json
import os
import pathlib
import sys
import urllib.error
import urllib.request

SITE = os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def opened(url, begin=0):
    headers = {"User-Agent": "prior.cu data/fetch.py"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    if os.environ.get("HF_TOKEN"):
        headers["Authorization"] = f"Bearer {os.environ['HF_TOKEN']}"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)


def listing(repository, path, suffix):
    """(name, bytes) of the files, in order."""
    files, url = [], f"{SITE}/api/datasets/{repository}/tree/main/{path}"
    while url:
        with opened(url) as answer:
            files += [(f["path"], f["size"]) for f in json.load(answer) if f["type"] == "file"]
            link = answer.headers.get("Link") or ""
        url = link.split(">")[0].lstrip("<") if 'rel="next"' in link else None
    return sorted(f for f in files if f[0].endswith(suffix))


def fetch(repository, name, size, target):
    """Goes on with an interrupted download; the file gets its name when it is whole."""
    part = target.with_name(target.name + ".part")
    for _ in range(10):
        have = part.stat().st_size if part.exists() else 0
        if have >= size:
            break
        try:
            with opened(f"{SITE}/datasets/{repository}/resolve/main/{name}", have) as answer, \
                    open(part, "ab" if answer.status == 206 else "wb") as out:
                while chunk := answer.read(1 << 20):
                    out.write(chunk)
                    have = out.tell()
                    if sys.stderr.isatty():
                        print(f"\r{target.name}: {have / 1e6:.0f} of {size / 1e6:.0f} MB ", end="", file=sys.stderr)
        except (urllib.error.URLError, OSError) as error:
            print(f"\n{target.name}: {error}; trying again", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if not part.exists() or part.stat().st_size != size:
        sys.exit(f"{target}: {part.stat().st_size if part.exists() else 0} bytes of {size}; the same command goes on")
    part.rename(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("path")
    parser.add_argument("folder")
    parser.add_argument("-files", type=int, default=1)
    parser.add_argument("-suffix", default=".parquet")
    a = parser.parse_args()
    folder = pathlib.Path(a.folder)
    folder.mkdir(parents=True, exist_ok=True)
    local = sorted(p for p in folder.iterdir() if p.name.endswith(a.suffix))
    try:
        wanted = listing(a.repository, a.path, a.suffix)[:a.files]
    except (urllib.error.URLError, OSError) as error:
        if not local:
            sys.exit(f"{SITE}: {error}\nand no *{a.suffix} in {folder}: copy files of {a.repository}/{a.path} there")
        print(f"{SITE}: {error}; taking the files in {folder}", file=sys.stderr)
        print("\n".join(map(str, local[:a.files])))
        return
    for name, size in wanted:
        target = folder / pathlib.PurePath(name).name
        if not target.exists() or target.stat().st_size != size:
            fetch(a.repository, name, size, target)
        print(target)


if __name__ == "__main__":
    main()
