#!/bin/sh
# kill -9 at random instants, until KILLS have hit each stage, dense and MoE, on 1 and on 2 ranks (one of them is
# killed). A killed run is started again, and killed again, until it gets through its stage; its metrics.jsonl, weights
# and moments must then be byte-identical to those of the run that nobody interrupted, and the next run begins.
#   sh test/kills.sh [KILLS]          1 a stage when not said; 100 take half an hour on two idle cores
#   sh test/kills.sh KILLS MODEL RANKS STAGE   one of the twelve
# Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_NUM_THREADS=1

wanted=${1:-1}
flags="-threads 1 -warmup 5 -lr 5e-3 -pretrain.steps 40 -midtrain.steps 16 -rl.steps 8 -rl.kl 0.1 -checkpoint_every 2"
flags="$flags -val_rows 8 -eval_samples 1"

random() { # below $1, in milliseconds' steps
    od -An -N4 -tu4 /dev/urandom | awk -v max="$1" '{ printf "%.3f", max * $1 / 4294967296 }'
}
started() { grep -c '^memory   at most' "$work/$1.log" 2>/dev/null || true; }

# ended NAME: a rank was killed, and so the job ends. Open MPI 4's launcher itself may wait for ever for a rank that died
# while the two were connecting: where no rank is left, it is ended.
ended() {
    for _ in $(seq 600); do
        kill -0 $shell 2>/dev/null || return 0
        sleep 0.1
    done
    if pgrep -f -- "^./train -runs $work -name $1 " >/dev/null; then
        echo "$1: a rank lives on 60 s after another was killed"
        return 1
    fi
    pkill -9 -f -- "^mpirun .* -runs $work -name $1 "
}

# killed NAME SECONDS STAGES: starts the run and kills it within SECONDS after its start-up. Its exit code.
killed() {
    before=$(started "$1")
    run "$1" "$model" $flags -stages "$3" &
    shell=$!
    while [ "$(started "$1")" = "$before" ] && kill -0 $shell 2>/dev/null; do sleep 0.01; done
    sleep "$(random "$2")"
    victim=$(pgrep -f -- "^./train -runs $work -name $1 " | shuf -n 1)
    [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null && hit=yes || hit=no
    [ $hit = no ] || ended "$1" || exit 1
    wait $shell 2>/dev/null
    code=$?
    [ $code -eq 0 ] || [ $hit = yes ] || { tail -5 "$work/$1.log"; echo "$1 ended by itself, exit $code"; exit 1; }
    return $code
}

# as_whole NAME STEP: what the run has written so far is the beginning of what the whole run wrote
as_whole() {
    cmp -s -n "$(wc -c <"$work/$1/metrics.jsonl")" "$work/$1/metrics.jsonl" "$whole/metrics.jsonl" || return 1
    for file in "$whole/ckpt/$2"/*.safetensors; do
        cmp -s "$file" "$work/$1/ckpt/$2/${file##*/}" || return 1
    done
}

for model in ${2:-tiny tiny-moe}; do
    for ranks in ${3:-1 2}; do
        [ "$ranks" -eq 1 ] || command -v mpirun >/dev/null 2>&1 || continue
        if [ "$ranks" -eq 1 ]; then LAUNCH=; else LAUNCH="mpirun -np $ranks"; fi
        whole=$work/$model-$ranks-whole
        run "$model-$ranks-whole" "$model" $flags || { cat "$work/$model-$ranks-whole.log"; failed=$((failed + 1)); }
        stages=
        for at in pretrain:40 midtrain:56 rl:64; do
            stage=${at%:*}
            step=step_$(printf %08d "${at#*:}")
            begin=$stages # the stages before it
            stages=${stages:+$stages,}$stage
            [ "${4:-$stage}" = "$stage" ] || continue
            base=$model-$ranks-$stage
            rm -rf "${work:?}/$base-base"
            mkdir "$work/$base-base"
            [ -z "$begin" ] || run "$base-base" "$model" $flags -stages "$begin"
            kills=0
            chains=0
            same=0
            begun=$(date +%s%3N)
            while [ "$kills" -lt "$wanted" ]; do # runs, of which each is killed again and again
                chains=$((chains + 1))
                name=$base-$chains
                cp -r "$work/$base-base" "$work/$name"
                seconds=0.8
                while [ "$kills" -lt "$wanted" ] && ! killed "$name" $seconds "$stages"; do kills=$((kills + 1)); done
                run "$name" "$model" $flags -stages "$stages"
                if as_whole "$name" "$step"; then same=$((same + 1)); else echo "differs: $name, $kills kills"; fi
                rm -rf "${work:?}/$name" "$work/$name.log"
            done
            check "$model, $ranks ranks, $stage: $kills kills in $chains runs, $same of them end as the whole run" \
                [ $same -eq $chains ]
            echo "        $((($(date +%s%3N) - begun) / 1000)) s"
        done
    done
done
finish
