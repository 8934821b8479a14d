#!/bin/sh
# Rollouts on ranks of their own (./rollout serve) and reuse after kill -9: the same bytes as in place at the same
# number of training ranks, whoever is killed and when. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

if ! command -v mpirun >/dev/null 2>&1; then
    echo "mpirun is not installed: scripts/setup.sh installs it"
    exit 1
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_NUM_THREADS=1

# Long answers, few checkpoints: most of the time is sampling, and a kill finds unfinished groups.
steps="-threads 1 -stages pretrain,rl -pretrain.steps 60 -rl.steps 6 -groups 4 -group_size 32 -rl.max_new_tokens 40
    -temperature 1.2 -rl.overlong graded -checkpoint_every 3"

same() { # MODEL OTHER WHAT
    check "$3: the same metrics" cmp "$work/$1/metrics.jsonl" "$work/$2/metrics.jsonl"
    check "$3: the same weights" cmp "$work/$1/ckpt/step_00000066/model.safetensors" \
        "$work/$2/ckpt/step_00000066/model.safetensors"
    check "$3: the same samples" diff -rq "$work/$1/samples" "$work/$2/samples"
}
drawn() { # the lines of the step's samples that are on disk before it is finished
    cat "$work/$1/samples/step_$2.jsonl".part* 2>/dev/null | wc -l
}
# wait_for NAME STEP COUNT PID
wait_for() {
    while [ "$(drawn "$1" "$2")" -lt "$3" ] && kill -0 "$4" 2>/dev/null; do :; done
}

# served NAME MODEL RANKS SERVERS [flags of serve]
served() {
    name=$1 of=$2 ranks=$3 servers=$4
    shift 4
    LAUNCH="mpirun -np $ranks" run "$name" "$of" $steps : -np "$servers" ./rollout serve -threads 1 "$@"
}

for kind in "tiny 1" "tiny-moe 2"; do
    model=${kind% *} ranks=${kind#* }
    LAUNCH="mpirun -np $ranks" run "$model" "$model" $steps
    served "$model-served" "$model" "$ranks" "$ranks" -page_size 8 -decode_rows 24
    check "$model: the servers did the sampling" \
        [ "$(grep -c 'rollout rank .* [1-9][0-9]* sampled' "$work/$model-served.log")" -eq "$ranks" ]
    same "$model" "$model-served" "$model, $ranks ranks and $ranks servers"

    # In the middle of a step's sampling first a server dies, then the trainer.
    rm -f "$work/killed"
    for victim in "rollout serve -threads 1 -decode_rows 9" "train .*-name $model-killed -model"; do
        served "$model-killed" "$model" "$ranks" "$ranks" -decode_rows 9 &
        shell=$!
        case $victim in rollout*) step=000001 ;; *) step=000004 ;; esac
        wait_for "$model-killed" $step 4 $shell
        pkill -9 -f -- "^./$victim" && drawn "$model-killed" $step >>"$work/killed"
        wait $shell
        check "$model: a killed rank ends the job with an error" [ $? -ne 0 ]
    done
    served "$model-killed" "$model" "$ranks" "$ranks" -decode_rows 9
    check "$model: killed twice while sampling" [ "$(grep -c . "$work/killed")" -eq 2 ]
    check "$model: samples of interrupted steps were used again" \
        [ "$(grep -c 'samples were drawn before' "$work/$model-killed.log")" -ge 2 ]
    same "$model" "$model-killed" "$model, killed and started again"
done

# In place: what was drawn of the interrupted step, and the steps after the last checkpoint, are not drawn again.
run place tiny $steps &
shell=$!
wait_for place 000004 4 $shell
pkill -9 -f -- "^./train .*-name place -model"
wait $shell
check "in place: killed" [ $? -eq 137 ]
before=$(drawn place 000004)
check "in place: while sampling, after $before lines" [ "$before" -gt 1 ]
run place tiny $steps
grep -q "step 5: [0-9]* of its samples were drawn before" "$work/place.log"
check "in place: they were used again" [ $? -eq 0 ]
grep -q "step 4: [0-9]* of its samples were drawn before" "$work/place.log"
check "in place: so were those of the step before, which the checkpoint did not have" [ $? -eq 0 ]
same tiny place "in place, killed and started again"
# With other weights the samples on disk are worth nothing.
rm -r "$work/place/ckpt" "$work/place/metrics.jsonl"
run place tiny $steps -seed 4
grep -q "step 1: .* drawn before" "$work/place.log"
check "samples of other weights are drawn anew" [ $? -ne 0 ]

LAUNCH="mpirun -np 1" run wrong tiny $steps : -np 1 ./rollout serve -temperature 0.5
check "a key that is not serve's is refused" [ $? -ne 0 ]
check "and named" grep -q "serve: -temperature" "$work/wrong.log"
LAUNCH="timeout 60 mpirun -np 1" run help tiny $steps : -np 1 ./rollout serve -h
code=$?
check "serve -h beside a ./train ends the job" [ $code -ne 0 -a $code -ne 124 ]
check "with a message" grep -q "serve: -h beside" "$work/help.log"
./rollout serve >"$work/alone.log" 2>&1
check "serve without a ./train says so" [ $? -eq 2 ]
finish
