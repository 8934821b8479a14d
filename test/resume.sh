#!/bin/sh
# kill -9 in every stage, same command again: metrics.jsonl and the final weights must be byte-identical to
# those of the uninterrupted run. Dense and MoE, fp32 and bf16. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

# again NAME [flags]: the run of the kind at hand
again() {
    new=$1
    shift
    case $model in
    *-bf16) run "$new" "${model%-bf16}" -dtype bf16 "$@" ;;
    *) run "$new" "$model" "$@" ;;
    esac
}

for model in tiny tiny-moe tiny-moe-bf16; do
    again "$model-whole" || { cat "$work/$model-whole.log"; failed=$((failed + 1)); continue; }
    for stage in pretrain midtrain rl; do
        case $stage in
        pretrain) last=60 ;;
        midtrain) last=20 ;;
        rl) last=10 ;;
        esac
        at=$(awk -v last=$last -v seed="$(date +%N)" 'BEGIN { srand(seed); print 1 + int(rand() * (last - 1)) }')
        again "$model-killed" &
        shell=$!
        while [ "$(lines "$model-killed" $stage)" -lt "$at" ] && kill -0 $shell 2>/dev/null; do
            sleep 0.02
        done
        pkill -9 -f -- "-name $model-killed -model" 2>/dev/null
        wait $shell 2>/dev/null
        check "$model: killed in $stage at step $(lines "$model-killed" $stage)" [ $? -eq 137 ]
    done
    again "$model-killed"
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
    again "$model-whole"
    check "$model: a complete run changes nothing" cmp "$work/before" "$work/$model-whole/metrics.jsonl"

    # A damaged newest checkpoint is passed over.
    newest=$work/$model-killed/ckpt/step_00000090
    printf 'x' | dd of="$newest/model.safetensors" bs=1 seek=5000 conv=notrunc 2>/dev/null
    again "$model-killed"
    check "$model: a damaged checkpoint is passed over and made again" \
        cmp "$work/$model-whole/ckpt/step_00000090/model.safetensors" "$newest/model.safetensors"

    # RL killed at two moments of a step: while it samples (the samples file of the step is not there yet) and after,
    # while it trains. With a KL term, two updates a rollout and large groups, so that both last.
    long="-stages pretrain,rl -pretrain.steps 90 -rl.kl 0.1 -rl.updates 2 -groups 8 -group_size 32 -rl.steps 6
        -rl.overlong soft -checkpoint_every 1 -threads 1"
    again "$model-rl" $long
    for moment in sampling training; do
        name=$model-rl-$moment
        before=none
        hit=0
        for step in 0 2 4; do # a rollout batch serves two steps
            samples=$work/$name/samples/step_$(printf %06d $step).jsonl
            again "$name" $long &
            shell=$!
            if [ $moment = training ]; then
                while [ ! -f "$samples" ] && kill -0 $shell 2>/dev/null; do :; done
            else
                while [ ! -f "$work/$name/metrics.jsonl" ] && kill -0 $shell 2>/dev/null; do :; done
                while [ "$(lines "$name" rl)" -lt $step ] || [ "$(lines "$name" pretrain)" -lt 90 ] &&
                    kill -0 $shell 2>/dev/null; do :; done
            fi
            pkill -9 -f -- "-name $name -model" 2>/dev/null
            wait $shell 2>/dev/null
            [ $? -eq 137 ] || continue
            if [ -f "$samples" ]; then before=training; else before=sampling; fi
            [ $before = $moment ] && hit=$((hit + 1))
        done
        check "$model: RL was killed while $moment ($hit times)" [ $hit -gt 0 ]
        again "$name" $long
        check "$model: killed while $moment: the same metrics" \
            cmp "$work/$model-rl/metrics.jsonl" "$work/$name/metrics.jsonl"
        check "$model: killed while $moment: the same weights" \
            cmp "$work/$model-rl/ckpt/step_00000096/model.safetensors" \
            "$work/$name/ckpt/step_00000096/model.safetensors"
        check "$model: killed while $moment: the same samples" diff -rq "$work/$model-rl/samples" "$work/$name/samples"
    done
    check "$model: its updates had groups to learn from, and a KL term" \
        grep -q '"kl":[0-9.e-]*,.*"kept_groups":[1-8]' "$work/$model-rl/metrics.jsonl"

    # SIGTERM saves and exits 0.
    again "$model-term" &
    shell=$!
    while [ "$(lines "$model-term" pretrain)" -lt 10 ] && kill -0 $shell 2>/dev/null; do sleep 0.02; done
    pkill -TERM -f -- "-name $model-term -model"
    wait $shell
    check "$model: SIGTERM saves and exits 0" [ $? -eq 0 ]
    check "$model: it stopped early" [ "$(lines "$model-term" rl)" -lt 10 ]
    again "$model-term"
    check "$model: the same command continues after SIGTERM" \
        cmp "$work/$model-whole/metrics.jsonl" "$work/$model-term/metrics.jsonl"
done
finish
