#!/bin/sh
# Writes dev/cuda/LADDER/results.md: the figures counted under SIMT and, on a machine with a GPU,
# the times. Run by `make results` in the ladder's folder.
set -eu
cd "$(dirname "$0")/../.."
ladder=$1
out=dev/cuda/$ladder/results.md
{
    echo "# Ladder: $ladder"
    echo
    echo "Written by dev/cuda/results.sh; what the versions are: README.md. Counted under SIMT:"
    echo
    build/ladder_"$ladder"
    if [ -x build/ladder_"${ladder}"_cuda ] && nvidia-smi -L >/dev/null 2>&1; then
        echo
        echo "Timed on $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1):"
        echo
        build/ladder_"${ladder}"_cuda
    fi
} >"$out.tmp"
mv "$out.tmp" "$out"
cat "$out"
