#!/bin/sh
# Bad input gives one message and an exit code; a full disk, a second run in the folder or a vanished data file
# damage nothing. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

# expect CODE PATTERN DESCRIPTION COMMAND...: it exits with CODE, one "error:" and one "hint:" line, and PATTERN
expect() {
    code=$1
    pattern=$2
    what=$3
    shift 3
    "$@" >"$work/out" 2>&1
    got=$?
    if [ $got -eq "$code" ] && grep -q -- "$pattern" "$work/out" &&
        [ "$(grep -c '^error: ' "$work/out")" -eq 1 ] && [ "$(grep -c '^hint: ' "$work/out")" -eq 1 ]; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what: exit $got, expected $code and \"$pattern\""
        tail -5 "$work/out"
    fi
}
train() { ./train -runs "$work" -name bad -eval_problems= -val_data embedded:sentences -val_rows 2 "$@"; }
text_of() { train -stages pretrain -pretrain.steps 3 -pretrain.data "$1"; }

expect 2 'unknown flag -lrr' "unknown key" train -lrr 1
expect 2 'did you mean lr' "its hint names the nearest" train -lrr 1
expect 2 'outside \[0, 10\]' "key out of range" train -lr 20
expect 2 'expected an integer' "word for a number" train -batch many
expect 2 'unknown preset' "unknown model" train -model huge
[ -e /dev/nvidiactl ] || expect 2 'CUDA' "a device the machine or build does not have" train -device cuda
expect 2 'unknown stage' "unknown stage" train -stages pretrain,sft
expect 2 'pretrain is there twice' "a stage twice" train -stages pretrain,midtrain,pretrain
expect 2 'beta' "beta outside its range" train -beta -1
expect 1 'cannot\|no such\|No such' "missing recipe" train -recipe "$work/none.ini"
expect 1 'no file or folder' "missing data" text_of "$work/none.txt"
: >"$work/empty.txt"
expect 1 'empty.txt' "empty data" text_of "$work/empty.txt"
printf '{"text": "good"}\n{"text": bad}\n' >"$work/broken.jsonl"
expect 1 'broken.jsonl:2' "JSONL that is none, with its line" text_of "$work/broken.jsonl"
head -c 4000 ./train >"$work/binary.jsonl"
expect 1 'binary.jsonl:1' "binary JSONL" text_of "$work/binary.jsonl"
head -c 4000 ./train >"$work/binary.shard"
expect 1 'binary.shard' "a shard that is none" text_of "$work/binary.shard"
head -c 900 test/data/numbers.shard >"$work/cut.shard"
expect 1 'cut.shard: .* do not fit its 900 bytes' "a truncated shard" text_of "$work/cut.shard"
cp test/data/numbers.shard "$work/flipped.shard"
printf 'x' | dd of="$work/flipped.shard" bs=1 seek=700 conv=notrunc 2>/dev/null
expect 1 'flipped.shard: the checksum of bytes 152 to 1352 does not match' "a shard with a flipped byte" text_of "$work/flipped.shard"
expect 1 'numbers.shard: byte 666: token 257, the vocabulary is 257' "a token beyond the vocabulary" \
    text_of test/data/numbers.shard
head -c 40 "$work/text.jsonl" >"$work/cut.jsonl"
expect 1 'cut.jsonl:2' "JSONL that ends in the middle of a line" text_of "$work/cut.jsonl"
rm -rf "$work/bad"
mkdir -p "$work/bad/lock"
expect 1 'cannot write .*bad/lock' "a run folder that cannot be written is no other process" train -stages pretrain -pretrain.steps 1
rm -rf "$work/bad"
expect 1 'none.txt' "text of a later stage that is not there" train -pretrain.steps 3 -midtrain.data "$work/none.txt"
expect 1 'empty.txt: expected documents, found none' "and such as is empty" train -pretrain.steps 3 -midtrain.data "$work/empty.txt"
expect 1 'text.jsonl: none of its .* documents is held out for validation' "too little held-out text" train -stages pretrain -pretrain.steps 3 \
    -pretrain.data "$work/text.jsonl" -val_data "$work/./text.jsonl" -val_fraction 0.0001
check "before the first step" [ ! -s "$work/bad/metrics.jsonl" ]
printf '{"text": ""}\n' >"$work/hollow.jsonl"
expect 1 'hollow.jsonl: expected documents, found none' "nothing but texts without a character" text_of "$work/hollow.jsonl"
printf '{"text": "some"}\n{"text": ""}\n{"text": "more"}\n{"text": ""}\n' >"$work/gaps.jsonl"
text_of "$work/gaps.jsonl" >"$work/out" 2>&1
check "between others they are left out" [ $? -eq 0 ]
check "and counted" grep -q 'gaps.jsonl: 2 empty texts left out' "$work/out"
rm -rf "$work/bad"
printf '{"question": "no answer"}\n' >"$work/open.jsonl"
expect 1 'open.jsonl:1' "RL problem without an answer" train -stages rl -rl.steps 1 -rl.data "$work/open.jsonl"
rm -rf "$work/bad"
{
    printf '{"question": "short", "answer": "1"}\n\n{"question": "%070d", "answer": "1"}\n' 0
    printf '{"question": "%090d", "answer": "1"}\n' 0
} >"$work/long.jsonl"
expect 1 'rl.data: .*long.jsonl:3: a prompt of 71 tokens, max_prompt_tokens is 64' \
    "an RL prompt that is too long, before the stages in front of it" \
    train -val_fraction 0 -pretrain.data embedded:sentences -midtrain.data embedded:sentences -rl.data "$work/long.jsonl"
check "with the length that would do" grep -q 'max_prompt_tokens 91,' "$work/out"
check "and nothing was made of it" test ! -e "$work/bad"
expect 1 'eval_problems: .*long.jsonl:3: a prompt of 71 tokens' "a held-out problem that is too long" \
    train -stages pretrain -pretrain.data embedded:sentences -val_fraction 0 -eval_problems "$work/long.jsonl"
expect 2 'neither steps nor tokens' "a stage of no length" train -stages pretrain -pretrain.steps 0
expect 1 'non-finite' "divergence stops after N bad steps" train -stages pretrain -init_std 10 -lr 10 \
    -weight_decay 10 -clip 0 -pretrain.warmup 0 -pretrain.steps 200 -bad_steps 3 -pretrain.batch 2
check "whose bad steps are counted" grep -q '"skipped":3' "$work/bad/metrics.jsonl"
rm -rf "$work/bad"
expect 1 'needs .* a rank' "a model that does not fit" train -model 10B-A0.5B -pretrain.data embedded:sentences
check "and nothing was made of it" test ! -e "$work/bad"
echo '{"model": {"type": "Unigram"}}' >"$work/unigram.json"
expect 1 'unigram.json: model.type' "a tokenizer of another kind" train -tokenizer "$work/unigram.json"
expect 2 'vocab = 900' "a vocabulary below the tokenizer's" train -tokenizer test/golden/bpe/tokenizer.json -vocab 900
cp test/golden/bpe/tokenizer.json "$work/tokenizer.json"
bpe() { # the checkpoint of three steps has the tokenizer
    ./train -runs "$work" -name bpe -tokenizer "$work/tokenizer.json" -stages pretrain -pretrain.steps 6 \
        -pretrain.data embedded:sentences -val_data embedded:sentences -val_rows 2 -eval_problems= -batch 2 "$@"
}
quiet() { "$@" >"$work/quiet.log" 2>&1; }
check "training with a tokenizer.json" quiet bpe -stop_after 3
check "whose copy is in the checkpoint" cmp "$work/tokenizer.json" "$work/bpe/ckpt/step_00000003/tokenizer.json"
check "and which ./rollout reads" quiet ./rollout score -model "$work/bpe" -prompt 'The old farmer'
[ -e /dev/nvidiactl ] || expect 2 'CUDA' "a device ./rollout does not have" ./rollout score -model "$work/bpe" -prompt x -device cuda
sed 's/"version":/"version" :/' test/golden/bpe/tokenizer.json >"$work/tokenizer.json"
expect 1 'made with another tokenizer' "another tokenizer than the checkpoint's" bpe
printf '{"id": 1, "text": "a"}\n{"id": 2}\n' >"$work/lines.jsonl"
expect 1 'lines.jsonl:2' "a line without text to tokenize" ./rollout tokenize "$work/lines.jsonl"
expect 2 'expected one file' "tokenize without a file" ./rollout tokenize -decode

if [ "$(id -u)" -ne 0 ]; then # root may write anywhere
    mkdir "$work/locked" && chmod 500 "$work/locked"
    expect 1 'cannot write into folder .*locked' "a folder one may not write into" \
        ./rollout tokenize "$work/text.jsonl" -out "$work/locked/ids.jsonl"
fi
expect 1 'cannot write /dev/null: expected a file' "an answer file that is a device" \
    ./rollout generate -model "$work/bpe" -prompt x -out /dev/null
check "which is one still" test -c /dev/null
expect 1 'cannot create folder .*text.jsonl/sub' "an answer file below a file, before the first answer" \
    ./rollout evaluate -model "$work/bpe" -out "$work/text.jsonl/sub/answers.jsonl"
expect 2 'no command' "rollout without a command" ./rollout
expect 2 "prompt is empty" "an empty prompt" ./rollout generate -prompt ""
expect 1 'config.json' "rollout without a checkpoint" ./rollout generate -model "$work/none" -prompt x

run whole tiny

# A checkpoint cut, longer or flipped: the file, the byte and no export of it.
checkpoint=$work/whole/ckpt/step_00000090
export_with() { # FILE: its bytes are $work/content
    rm -rf "$work/broken"
    mkdir "$work/broken"
    cp "$checkpoint/config.json" "$checkpoint/tokenizer.json" "$checkpoint/model.safetensors" "$work/broken"
    cp "$work/content" "$work/broken/$1"
    ./rollout export -model "$work/broken" -out "$work/exported"
}
damaged() { # cut|longer|flipped FILE BYTES, into $work/content
    case $1 in
    cut) head -c "$3" "$checkpoint/$2" ;;
    longer) cat "$checkpoint/$2" && head -c "$3" /dev/zero ;;
    flipped) head -c "$3" "$checkpoint/$2" && printf '\377' && tail -c +$(($3 + 2)) "$checkpoint/$2" ;;
    esac >"$work/content"
}
while read -r how file bytes found; do
    damaged "$how" "$file" "$bytes"
    expect 1 "broken/$file: $found" "$file $how at $bytes" export_with "$file"
done <<'CASES'
cut model.safetensors 100000 tensor .* from byte
cut model.safetensors 300 header length .* at byte 0
longer model.safetensors 5 tensors end at byte
flipped model.safetensors 6 header length .* at byte 0
flipped model.safetensors 60 header: not valid JSON at byte
cut config.json 200 not valid JSON at byte 201
longer config.json 2 not valid JSON at byte
flipped config.json 100 not valid JSON at byte
cut tokenizer.json 200 not valid JSON at byte 201
longer tokenizer.json 2 not valid JSON at byte
flipped tokenizer.json 100 not valid JSON at byte
CASES
check "no export was made of them" [ ! -e "$work/exported" -a ! -e "$work/exported.tmp" ]
damaged flipped model.safetensors 200000
cp -r "$checkpoint" "$work/step"
cp "$work/content" "$work/step/model.safetensors"
expect 1 'step/model.safetensors: its checksum' "a training checkpoint with a flipped weight" \
    ./rollout export -model "$work/step" -out "$work/exported"
expect 1 'step/model.safetensors: its checksum' "also to start from" \
    train -init "$work/step" -model tiny -layers 2 -channels 64
rm "$work/step/state.json"
check "which is used as it is where nothing says otherwise" \
    quiet ./rollout export -model "$work/step" -out "$work/exported"
printf 'seed = 1\0\n' >"$work/zero.ini"
expect 2 'zero.ini: byte 8 is zero' "a recipe with a zero byte" train -recipe "$work/zero.ini"
printf '{"question": "a", "answer": "1"}\n{"question": "b", "answer": 1e999}\n' >"$work/huge.jsonl"
expect 1 'huge.jsonl:2: a number that no double holds' "a number beyond all" \
    ./rollout evaluate "$work/huge.jsonl" -model "$checkpoint"

expect 1 'made by another recipe' "the folder of another recipe" run_shown whole tiny -seed 4
expect 1 'model has layers = 3, the checkpoint .* has 2' "another model than the checkpoint's" \
    train -init "$work/whole/ckpt/step_00000090" -layers 3
expect 1 'model has experts = 16, the checkpoint .* has 0' "a MoE recipe and a dense checkpoint" \
    train -init "$work/whole/ckpt/step_00000090" -model tiny-moe -layers 2 -channels 64
stopped twice pretrain.step:2
expect 1 'another process is running' "a second run in one folder" run_shown twice tiny
continued twice
check "which the first survives" cmp "$work/whole/metrics.jsonl" "$work/twice/metrics.jsonl"

# A file-size limit stands for a full disk: metrics fit, checkpoints (1.9 MB) stop fitting.
run disk tiny -stop_after 30
expect 1 'disk: its stage 1 is pretrain, -stages has midtrain there' "other stages than those the run has begun" \
    run_shown disk tiny -stages midtrain,rl
kept=$(ls "$work/disk/ckpt" | tail -1)
(ulimit -f 1000 && run disk tiny)
check "a full disk: exit code" [ $? -eq 1 ]
check "a full disk: a message" grep -q "error: cannot write" "$work/disk.log"
check "a full disk: the last good checkpoint stays" test -f "$work/disk/ckpt/$kept/state.json"
run disk tiny
check "a full disk: with space again the run ends as if nothing was" \
    cmp "$work/whole/metrics.jsonl" "$work/disk/metrics.jsonl"

cp "$work/text.jsonl" "$work/kept.jsonl"
stopped gone pretrain.step:5
rm "$work/text.jsonl"
continued gone
check "a data file removed mid-run: the next stage misses it" \
    grep -q "error: .*text.jsonl" "$work/gone.log"
cp "$work/kept.jsonl" "$work/text.jsonl"
run gone tiny
check "with the file back the run ends as if nothing was" \
    cmp "$work/whole/metrics.jsonl" "$work/gone/metrics.jsonl"
finish
