#!/bin/sh
# The same recipe on 1, 2 and 4 ranks: losses agree, a repeated job is bit-identical, a killed one resumes bit for
# bit and at another number of ranks, and an error ends the job with one message. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

if ! command -v mpirun >/dev/null 2>&1; then
    echo "mpirun is not installed: scripts/setup.sh installs it"
    exit 1
fi
# Open MPI asks for both as root, and for the third where ranks exceed cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_NUM_THREADS=1

cat >"$work/second_only" <<'SCRIPT'
#!/bin/sh
# the fault is rank 1's alone
[ "$OMPI_COMM_WORLD_RANK" = 1 ] || unset PRIOR_FAULT
exec "$@"
SCRIPT
chmod +x "$work/second_only"

# The recipe's losses are compared while rounding has had no time to grow.
steps="-threads 1 -lr 1e-3 -rl.lr 1e-4 -warmup 10 -pretrain.steps 50 -midtrain.steps 10 -rl.steps 2"
for model in tiny tiny-moe; do
    run "$model-1" $model $steps
    for ranks in 2 4; do
        LAUNCH="mpirun -np $ranks" run "$model-$ranks" $model $steps
        check "$model: $ranks ranks have the losses of one" losses_agree "$model-1" "$model-$ranks"
    done
    [ "$(nproc)" -ge 4 ] || check "$model: more threads than cores are said" \
        grep -q "^warning: 4 ranks of 1 threads on" "$work/$model-4.log"
    # Gradients sharded too: with one micro-batch a rank the same sums in the same order, hence the same bits.
    LAUNCH="mpirun -np 2" run "$model-zero" $model $steps -zero 2
    check "$model: 2 ranks again, gradients sharded: the same metrics" \
        cmp "$work/$model-2/metrics.jsonl" "$work/$model-zero/metrics.jsonl"
    check "$model: 2 ranks again, gradients sharded: the same weights" \
        cmp "$work/$model-2/ckpt/step_00000062/model.safetensors" \
        "$work/$model-zero/ckpt/step_00000062/model.safetensors"
    check "$model: each rank saves its own moments" test \
        -s "$work/$model-2/ckpt/step_00000062/optimizer.rank1.safetensors"
    # Rows are packed for a pass, so that its length is the same on both sides.
    run "$model-whole" $model $steps -pass_rows 128
    # In RL ranks have different numbers of micro-batches (tiny-moe); if they wait for each other they fail here.
    LAUNCH="timeout 300 mpirun -np 2" run "$model-parts" $model $steps -zero 2 -pass_rows 128
    check "$model: sharded, two micro-batches a rank: the losses of one rank" \
        losses_agree "$model-whole" "$model-parts"

    PRIOR_FAULT=pretrain.step:25:KILL LAUNCH="mpirun -np 2 $work/second_only" run "$model-killed" $model $steps -zero 2
    code=$?
    check "$model: a killed rank ends the job with an error (exit $code)" [ $code -ne 0 ]
    check "$model: and with one message" [ "$(grep -c 'on signal 9' "$work/$model-killed.log")" -eq 1 ]
    check "$model: it was killed after 25 steps" [ "$(lines "$model-killed" pretrain)" -ge 24 ]
    cp -r "$work/$model-killed" "$work/$model-moved"
    LAUNCH="mpirun -np 2" run "$model-killed" $model $steps -zero 2
    check "$model: killed on 2 ranks, resumed on 2: the same metrics" \
        cmp "$work/$model-2/metrics.jsonl" "$work/$model-killed/metrics.jsonl"
    LAUNCH="mpirun -np 4" run "$model-moved" $model $steps -zero 2
    check "$model: killed on 2 ranks, resumed on 4: the same losses" losses_agree "$model-1" "$model-moved"
    grep -q "resumed at" "$work/$model-moved.log"
    check "$model: it did resume" [ $? -eq 0 ]
done

# The job script of a cluster, with stand-ins for SLURM's commands: signalled before its time limit it saves and goes back
# into the queue; a complete run does not.
mkdir "$work/bin"
printf '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec mpirun -np 2 "$@"\n' >"$work/bin/srun"
printf '#!/bin/sh\necho "$@" >>"%s/requeued"\n' "$work" >"$work/bin/scontrol"
chmod +x "$work/bin/srun" "$work/bin/scontrol"
job() {
    SLURM_JOB_ID=7 PATH=$work/bin:$PATH bash scripts/slurm/train.sbatch -runs "$work" -name job -model tiny -threads 1 \
        -stages pretrain -data "$work/text.jsonl" -val_data embedded:sentences -eval_problems= -val_rows 2 -batch 4 \
        -context 32 -pretrain.steps "$@" >>"$work/job.log" 2>&1
}
job 1000000 &
shell=$!
while [ "$(lines job pretrain)" -lt 3 ] && kill -0 $shell 2>/dev/null; do sleep 0.02; done
pkill -USR1 -f -- "train.sbatch -runs $work -name job"
wait $shell
check "a job signalled before its time limit exits with 0" [ $? -eq 0 ]
check "it has saved" grep -q "stopped at pretrain step" "$work/job.log"
check "and goes back into the queue" grep -q "requeue 7" "$work/requeued"
rm -rf "$work/job" "$work/requeued"
check "a job whose run completes exits with 0" job 3
check "and leaves the queue" [ ! -e "$work/requeued" ]

LAUNCH="mpirun -np 2" run bad tiny -data "$work/absent.jsonl"
check "an error ends all ranks with a code" [ $? -ne 0 ]
check "and with one message" [ "$(grep -c 'error: ' "$work/bad.log")" -eq 1 ]
finish
