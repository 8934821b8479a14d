#!/bin/sh
# FineMath 4+ (HuggingFaceTB/finemath): mathematical web pages, 64 files.
#   data/finemath.sh [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/finemath, shards in data/shards/finemath; what is there is not fetched or made again.
set -eu
cd "$(dirname "$0")/.."
count=1
if [ "${1:-}" = -files ]; then
    count=$2
    shift 2
fi
files=$(${PYTHON:-python3} data/fetch.py HuggingFaceTB/finemath finemath-4plus data/raw/finemath -files "$count" -suffix .parquet)
# shellcheck disable=SC2086
exec data/prepare -out data/shards/finemath -field text $files "$@"
