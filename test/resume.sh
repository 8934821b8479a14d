#!/bin/sh
# kill -9 in every stage, in the middle of a step, of a rollout and of a checkpoint, then the same command again:
# metrics.jsonl, samples and weights must be byte-identical to those of the uninterrupted run. Dense and MoE, fp32 and
# bf16. The instants are named (llmc/core/fault.h), so that they are the same on every machine; test/kills.sh kills at
# random ones. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

# Checkpoints are due every 4 steps; a rollout serves two steps of RL.
short="-warmup 5 -lr 5e-3 -pretrain.steps 40 -midtrain.steps 12 -rl.steps 6 -rl.kl 0.1 -rl.updates 2 -rl.overlong soft"

# again NAME [flags]: the run of the kind at hand
again() {
    new=$1
    shift
    case $model in
    *-bf16) run "$new" "${model%-bf16}" $short -dtype bf16 "$@" ;;
    *) run "$new" "$model" $short "$@" ;;
    esac
}

# kill_at NAME POINT:N [flags]: kill -9 where POINT is passed the N-th time
kill_at() {
    name=$1
    point=$2
    shift 2
    PRIOR_FAULT=$point:KILL again "$name" "$@"
    code=$?
    check "$model: killed at $point, $(lines "$name" pretrain) + $(lines "$name" midtrain) + $(lines "$name" rl) steps" \
        [ $code -eq 137 ]
}

same_as_whole() { # NAME WHAT
    check "$model: $2: metrics.jsonl is byte-identical" \
        cmp "$work/$model-whole/metrics.jsonl" "$work/$1/metrics.jsonl"
    check "$model: $2: all samples are" diff -r "$work/$model-whole/samples" "$work/$1/samples"
    for step in 40 52 58; do
        folder=ckpt/step_$(printf %08d $step)
        check "$model: $2: weights after step $step are" \
            cmp "$work/$model-whole/$folder/model.safetensors" "$work/$1/$folder/model.safetensors"
    done
}

for model in tiny tiny-moe-bf16; do
    again "$model-whole" || { cat "$work/$model-whole.log"; failed=$((failed + 1)); continue; }
    check "$model: RL had groups to learn from, and a KL term" \
        grep -q '"kl":[0-9.e-]*,.*"kept_groups":[1-8]' "$work/$model-whole/metrics.jsonl"

    kill_at "$model-steps" pretrain.step:18
    kill_at "$model-steps" pretrain.trained:7
    kill_at "$model-steps" midtrain.step:6
    kill_at "$model-steps" rl.step:1
    kill_at "$model-steps" sampled:5 # of RL's first rollout: the process begins with it
    kill_at "$model-steps" rl.trained:2
    kill_at "$model-steps" rl.step:3
    # Keys that say how, not what: another page size and fewer rows draw the same samples.
    again "$model-steps" -decode_rows 5 -page_size 8 -threads 1 -keep 9
    same_as_whole "$model-steps" "killed in steps"

    kill_at "$model-saving" checkpoint.moments:3
    kill_at "$model-saving" checkpoint.weights:3
    kill_at "$model-saving" checkpoint.whole:3
    kill_at "$model-saving" checkpoint.renamed:3
    again "$model-saving"
    same_as_whole "$model-saving" "killed while saving"

    PRIOR_FAULT=pretrain.step:10:TERM again "$model-term"
    check "$model: SIGTERM saves and exits 0" [ $? -eq 0 ]
    check "$model: it stopped early" [ "$(lines "$model-term" pretrain)" -eq 10 ]
    again "$model-term"
    same_as_whole "$model-term" "after SIGTERM"

    again "$model-whole"
    same_as_whole "$model-whole" "a complete run changes nothing"

    # A damaged newest checkpoint is passed over: its last steps are made again.
    newest=$work/$model-term/ckpt/step_00000058
    printf 'x' | dd of="$newest/model.safetensors" bs=1 seek=5000 conv=notrunc 2>/dev/null
    again "$model-term"
    check "$model: a damaged checkpoint is named" grep -q "step_00000058 model.safetensors does not match" \
        "$work/$model-term.log"
    same_as_whole "$model-term" "a damaged checkpoint is made again"
done
finish
