#!/bin/sh
# ./rollout evaluate: killed with kill -9 again and again and started anew, on 1, 2 and 4 ranks, it ends in the same
# bytes as when left alone. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none

samples() { cat "$work/$1.jsonl".part* 2>/dev/null | wc -l; }

for model in tiny tiny-moe; do
    run "$model" $model -stages pretrain
    evaluate() { # NAME [flags]
        name=$1
        shift
        ${LAUNCH:-} ./rollout evaluate test/data/amc23.jsonl test/data/gsm8k.jsonl test/data/choices.jsonl \
            embedded:arithmetic -count 40 -n 32 -k 8 -temperature 1 -model "$work/$model" -threads 1 \
            -out "$work/$name.jsonl" "$@" >"$work/$name.table" 2>"$work/$name.log"
    }
    evaluate "$model-whole"
    check "$model: an evaluation makes its table" grep -q "^all: 44 problems, 32 samples" "$work/$model-whole.table"
    for kill in 1 2 3; do
        before=$(samples "$model-killed")
        PRIOR_FAULT=sampled:70:KILL evaluate "$model-killed"
        code=$?
        left=$(samples "$model-killed")
        check "$model: killed with $left samples" [ $code -eq 137 ]
        check "$model: more than before" [ "$left" -gt "$before" ]
    done
    printf '{"set":"torn' >>"$work/$model-killed.jsonl.part0"
    evaluate "$model-killed"
    check "$model: the finished samples were kept" \
        grep -q "^[0-9]* samples are in" "$work/$model-killed.log"
    check "$model: the same samples after kill -9" cmp "$work/$model-whole.jsonl" "$work/$model-killed.jsonl"
    check "$model: the same table" cmp "$work/$model-whole.table" "$work/$model-killed.table"
    check "$model: the same estimates" cmp "$work/$model-whole.jsonl.json" "$work/$model-killed.jsonl.json"
    for ranks in 2 4; do
        command -v mpirun >/dev/null 2>&1 || continue
        LAUNCH="mpirun -np $ranks" evaluate "$model-$ranks" -page_size 8 -decode_rows 7
        check "$model: the same samples on $ranks ranks, 7 rows, pages of 8" \
            cmp "$work/$model-whole.jsonl" "$work/$model-$ranks.jsonl"
    done
    evaluate "$model-few" -decode_rows 64 -page_size 8 -pages 60
    check "$model: the same samples with preemption" cmp "$work/$model-whole.jsonl" "$work/$model-few.jsonl"
    check "$model: there was preemption" grep -q " [1-9][0-9]* computed again" "$work/$model-few.log"
done
finish
