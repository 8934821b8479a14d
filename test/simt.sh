#!/bin/sh
# The program's own loop over the kernels: -device simt against -device cpu, both models, all three
# stages. They go on from a model that answers, so that RL has groups to keep. The SIMT device's memory is closed to the
# host here, as a GPU's is (doc/kernels.md).
cd "$(dirname "$0")/.."
. test/short_runs.sh

steps="-pretrain.steps 12 -midtrain.steps 5 -rl.steps 3 -batch 4 -context 32 -checkpoint_every 0"
for model in tiny tiny-moe; do
    run "$model" $model
    from="-init $work/$model/ckpt/step_00000090"
    for dtype in fp32 bf16; do
        for device in cpu simt; do
            run "$model-$dtype-$device" $model $from $steps -dtype $dtype -device $device
        done
    done
    check "$model: the kernels in fp32 have the losses of the CPU to 1e-5" \
        losses_agree "$model-fp32-cpu" "$model-fp32-simt" 1e-5 20
    # In RL a rounding decides which token is drawn, and then the answers are others; so it does which expert a
    # row goes to that is near two.
    case $model in *moe) band=5e-2 ;; *) band=1e-2 ;; esac
    check "$model: the kernels in bf16 have the losses of the CPU to $band" \
        losses_agree "$model-bf16-cpu" "$model-bf16-simt" $band 18 "pretrain midtrain"
    check "$model: RL had something to learn from" [ "$(rl_losses "$model-fp32-simt")" -gt 0 ]
done

# Two ranks, whose gradients and weights travel between memories that the host cannot read.
if command -v mpirun >/dev/null 2>&1; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    LAUNCH="mpirun -np 2"
    for device in cpu simt; do
        run "ranks-$device" tiny $steps -stages pretrain,midtrain -init "$work/tiny/ckpt/step_00000090" \
            -threads 1 -zero 2 -device $device
    done
    check "two ranks, ZeRO-2: the kernels have the losses of the CPU to 1e-5" \
        losses_agree ranks-cpu ranks-simt 1e-5 15
fi
finish
