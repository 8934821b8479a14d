#!/bin/sh
# What the scripts of public corpora share: fetches files and makes shards of them.
#   data/public_corpus.sh NAME REPOSITORY FOLDER SUFFIX FIELD [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/NAME, shards in data/shards/NAME; what is there is not fetched or made again.
set -eu
cd "$(dirname "$0")/.."
name=$1
repository=$2
folder=$3
suffix=$4
field=$5
shift 5
count=1
if [ "${1:-}" = -files ]; then
    count=$2
    shift 2
fi
files=$(${PYTHON:-python3} data/fetch.py "$repository" "$folder" "data/raw/$name" -files "$count" -suffix "$suffix")
# shellcheck disable=SC2086
exec data/prepare -out "data/shards/$name" -field "$field" $files "$@"
