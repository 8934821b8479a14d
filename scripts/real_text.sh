#!/bin/sh
# The main job on real text: pre-training on tinyshakespeare and the GSM8K training set, mid-training on GSM8K's worked
# solutions with generated word problems, whose form RL asks for, RL on such problems.
#   scripts/real_text.sh FOLDER TOKENIZER [flags of ./train]
# FOLDER has tinyshakespeare.txt (github.com/karpathy/char-rnn) and gsm8k/train.jsonl (github.com/openai/grade-school-math).
set -eu
cd "$(dirname "$0")/.."
if [ $# -lt 2 ] || [ ! -x ./train ]; then
    echo "usage, after make train: scripts/real_text.sh FOLDER TOKENIZER [flags of ./train]" >&2
    exit 2
fi
data=$1
tokenizer=$2
shift 2
exec ./train -name real -tokenizer "$tokenizer" -val_fraction 0.05 \
    -pretrain.data "$data/tinyshakespeare.txt*0.5,$data/gsm8k/train.jsonl*0.5" \
    -midtrain.data "$data/gsm8k/train.jsonl*0.4*10,embedded:chains:flaw=0.15*0.6" \
    -rl.data embedded:chains -eval_problems embedded:chains -eval_count 100 -eval_new_tokens 96 -max_prompt_tokens 160 \
    -context 256 -batch 8 -pretrain.steps 800 -midtrain.steps 600 -midtrain.decay 600 -rl.steps 100 -rl.decay 100 \
    -rl.max_new_tokens 96 -rl.lr 3e-5 -rl.lr_end 3e-5 -rl.groups 8 "$@"
