#!/bin/sh
# kill -9 in every stage, same command again: metrics.jsonl and the final weights must be byte-identical to
# those of the uninterrupted run. Dense and MoE. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

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
finish
