#!/bin/sh
# CodeParrot without duplicates (codeparrot/codeparrot-clean): Python files, 54 files.
#   data/codeparrot.sh [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/codeparrot, shards in data/shards/codeparrot; what is there is not fetched or made again.
set -eu
cd "$(dirname "$0")/.."
count=1
if [ "${1:-}" = -files ]; then
    count=$2
    shift 2
fi
files=$(${PYTHON:-python3} data/fetch.py codeparrot/codeparrot-clean '' data/raw/codeparrot -files "$count" -suffix .json.gz)
# shellcheck disable=SC2086
exec data/prepare -out data/shards/codeparrot -field content $files "$@"
