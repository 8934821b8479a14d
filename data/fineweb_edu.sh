#!/bin/sh
# FineWeb-Edu, its sample of 10 billion tokens (HuggingFaceFW/fineweb-edu): educational web pages, 14 files of 2 GB.
#   data/fineweb_edu.sh [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/fineweb_edu, shards in data/shards/fineweb_edu; what is there is not fetched or made again.
exec sh "$(dirname "$0")/public_corpus.sh" fineweb_edu HuggingFaceFW/fineweb-edu sample/10BT .parquet text "$@"
