#!/bin/sh
# FineMath 4+ (HuggingFaceTB/finemath): mathematical web pages, 64 files.
#   data/finemath.sh [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/finemath, shards in data/shards/finemath; what is there is not fetched or made again.
exec sh "$(dirname "$0")/public_corpus.sh" finemath HuggingFaceTB/finemath finemath-4plus .parquet text "$@"
