#!/bin/sh
# kill -9 in every stage, same command again: metrics.jsonl and the final weights must be byte-identical to
# those of the uninterrupted run. Dense and MoE. Ends with "N passed, M failed".
set -u
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# Texts whose answers are right half of the time: learned in seconds, and RL has something to do.
for q in 1 2 3 4 5 6 7 8; do
    printf '{"text": "Q: %d?\\n\\\\boxed{%d}"}\n' $q $q
    printf '{"text": "Q: %d?\\n\\\\boxed{%d}"}\n' $q $((q % 8 + 1))
done >"$work/text.jsonl"
for q in 1 2 3 4 5 6 7 8; do
    printf '{"question": "Q: %d?", "answer": "%d"}\n' $q $q
done >"$work/problems.jsonl"

# run NAME MODEL [flags]
run() {
    name=$1
    model=$2
    shift 2
    ./train -runs "$work" -name "$name" -model "$model" -layers 2 -channels 64 \
        -data "$work/text.jsonl" -rl.data "$work/problems.jsonl" -val_data embedded:sentences \
        -val_fraction 0.0001 -val_rows 4 -eval_problems embedded:arithmetic -eval_count 4 \
        -eval_samples 2 -eval_new_tokens 12 -pretrain.steps 60 -midtrain.steps 20 -rl.steps 10 \
        -batch 8 -context 64 -lr 3e-3 -rl.lr 1e-4 -groups 2 -group_size 8 -rl.max_new_tokens 12 \
        -bias_rate 1e-3 -checkpoint_every 4 -seed 3 "$@" >>"$work/$name.log" 2>&1
}

lines() { # of a stage in a run's metrics
    count=$(grep -c "\"kind\":\"step\",\"stage\":\"$2\"" "$work/$1/metrics.jsonl" 2>/dev/null)
    echo "${count:-0}"
}

check() { # DESCRIPTION COMMAND...
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
    fi
}

for model in tiny tiny-moe; do
    run "$model-whole" $model || { cat "$work/$model-whole.log"; failed=$((failed + 1)); continue; }
    for stage in pretrain midtrain rl; do
        case $stage in
        pretrain) last=60 ;;
        midtrain) last=20 ;;
        rl) last=10 ;;
        esac
        at=$(awk -v last=$last -v seed="$(date +%N)" 'BEGIN { srand(seed); print 1 + int(rand() * (last - 1)) }')
        run "$model-killed" $model &
        shell=$!
        while [ "$(lines "$model-killed" $stage)" -lt "$at" ] && kill -0 $shell 2>/dev/null; do
            sleep 0.02
        done
        pkill -9 -f -- "-name $model-killed -model" 2>/dev/null
        wait $shell 2>/dev/null
        check "$model: killed in $stage at step $(lines "$model-killed" $stage)" [ $? -eq 137 ]
    done
    run "$model-killed" $model
    check "$model: metrics.jsonl is byte-identical after three kills" \
        cmp "$work/$model-whole/metrics.jsonl" "$work/$model-killed/metrics.jsonl"
    for step in 60 80 90; do
        folder=ckpt/step_$(printf %08d $step)
        check "$model: weights after step $step are byte-identical" \
            cmp "$work/$model-whole/$folder/model.safetensors" \
            "$work/$model-killed/$folder/model.safetensors"
    done
    check "$model: RL had groups to learn from" \
        grep -q '"stage":"rl".*"kept_groups":2' "$work/$model-whole/metrics.jsonl"
    cp "$work/$model-whole/metrics.jsonl" "$work/before"
    run "$model-whole" $model
    check "$model: a complete run changes nothing" cmp "$work/before" "$work/$model-whole/metrics.jsonl"

    # A damaged newest checkpoint is passed over.
    newest=$work/$model-killed/ckpt/step_00000090
    printf 'x' | dd of="$newest/model.safetensors" bs=1 seek=5000 conv=notrunc 2>/dev/null
    run "$model-killed" $model
    check "$model: a damaged checkpoint is passed over and made again" \
        cmp "$work/$model-whole/ckpt/step_00000090/model.safetensors" "$newest/model.safetensors"

    # SIGTERM saves and exits 0.
    run "$model-term" $model &
    shell=$!
    while [ "$(lines "$model-term" pretrain)" -lt 10 ] && kill -0 $shell 2>/dev/null; do sleep 0.02; done
    pkill -TERM -f -- "-name $model-term -model"
    wait $shell
    check "$model: SIGTERM saves and exits 0" [ $? -eq 0 ]
    check "$model: it stopped early" [ "$(lines "$model-term" rl)" -lt 10 ]
    run "$model-term" $model
    check "$model: the same command continues after SIGTERM" \
        cmp "$work/$model-whole/metrics.jsonl" "$work/$model-term/metrics.jsonl"
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
