#!/bin/sh
# FineWeb-Edu, its sample of 10 billion tokens (HuggingFaceFW/fineweb-edu): educational web pages, 14 files of 2 GB.
#   data/fineweb_edu.sh [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/fineweb_edu, shards in data/shards/fineweb_edu; what is there is not fetched or made again.
set -eu
cd "$(dirname "$0")/.."
count=1
if [ "${1:-}" = -files ]; then
    count=$2
    shift 2
fi
files=$(${PYTHON:-python3} data/fetch.py HuggingFaceFW/fineweb-edu sample/10BT data/raw/fineweb_edu -files "$count" -suffix .parquet)
# shellcheck disable=SC2086
exec data/prepare -out data/shards/fineweb_edu -field text $files "$@"
