#!/bin/sh
# CodeParrot without duplicates (codeparrot/codeparrot-clean): Python files, 54 files.
#   data/codeparrot.sh [-files N] [flags of data/prepare: -tokenizer FILE ...]
# Files lie in data/raw/codeparrot, shards in data/shards/codeparrot; what is there is not fetched or made again.
exec sh "$(dirname "$0")/public_corpus.sh" codeparrot codeparrot/codeparrot-clean '' .json.gz content "$@"
