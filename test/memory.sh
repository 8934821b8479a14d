#!/bin/sh
# What a run took, by the kernel's count of resident pages, against what -plan printed before it: within 2 %. And memory
# that grows with the length of a text no faster than the text.
#   sh test/memory.sh         models of a few million parameters
#   sh test/memory.sh full    114 million parameters and 16384 tokens too: some minutes
# Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

# takes NAME RANKS [flags]: the plan beforehand and what the run says at its end, in MiB, into $planned and $taken
takes() {
    name=$1
    ranks=$2
    shift 2
    set -- -runs "$work" -name "$name" -stages pretrain -pretrain.steps 2 -pretrain.data embedded:sentences \
        -eval_problems= -val_rows 16 "$@"
    if [ "$ranks" -gt 1 ]; then launch="mpirun -np $ranks"; else launch=; fi
    planned=$(./train "$@" -plan yes -plan_ranks "$ranks" | awk '$1 == "total" { print $3 == "GiB" ? 1024 * $2 : $2 }')
    $launch ./train "$@" >"$work/$name.log" 2>&1 || cat "$work/$name.log"
    taken=$(awk '/^memory   took/ { print $5 }' "$work/$name.log")
}

as_planned() { # NAME RANKS [flags]
    takes "$@"
    check "$1, $2 ranks: planned $planned MiB, took $taken" \
        awk -v p="$planned" -v t="$taken" 'BEGIN { exit !(t > 0 && t < 1.02 * p && t > 0.98 * p) }'
}

demo="-vocab 512 -batch 16 -context 256"
as_planned demo 1 -model demo $demo
as_planned demo-recompute 1 -model demo $demo -recompute yes
as_planned demo-selective 1 -model demo $demo -recompute selective
as_planned demo-micro 1 -model demo $demo -pass_rows 2048
as_planned demo-bf16 1 -model demo $demo -dtype bf16
as_planned demo-moe 1 -model demo-moe $demo
as_planned demo-moe-bf16 1 -model demo-moe $demo -dtype bf16 -recompute selective
# Of the memory that the SIMT device plays: what a GPU's arena would have given.
small="-model tiny -batch 2 -context 64 -val_rows 2 -device simt"
as_planned tiny-simt 1 $small
as_planned tiny-simt-samples 1 $small -eval_problems embedded:arithmetic -eval_count 1 -eval_samples 1 -eval_new_tokens 2
if command -v mpirun >/dev/null 2>&1; then
    as_planned demo-2 2 -model demo $demo -threads 1
    as_planned demo-moe-2 2 -model demo-moe $demo -threads 1 -zero 2
fi

# One document of T tokens in one row: four times T takes at most four times the memory.
long() {
    takes "long-$1" 1 -model demo -vocab 512 -batch 1 -context "$1" -pretrain.steps 1 -doc_mask no -val_rows 1
    echo "        T = $1: planned $planned MiB, took $taken"
}
long 1024
short=$taken
long 4096
check "memory is linear in T: $short MiB, $taken MiB" \
    awk -v s="$short" -v l="$taken" 'BEGIN { exit !(s > 0 && l > 0 && l < 4 * s) }'

if [ "${1:-}" = full ]; then
    long 16384
    big="-model demo -layers 12 -channels 768 -ffn 2048 -heads 12 -kv_heads 4 -head_dim 64 -vocab 50304 -batch 4"
    big="$big -context 256 -val_rows 4"
    as_planned 114M 1 $big
    as_planned 114M-recompute 1 $big -recompute yes
    as_planned 114M-selective 1 $big -recompute selective
    as_planned 114M-bf16 1 $big -dtype bf16
    as_planned 114M-2 2 $big -threads 1
    as_planned 114M-2-zero 2 $big -threads 1 -zero 2
fi
finish
