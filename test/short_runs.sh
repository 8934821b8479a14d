# Sourced by the tests that compare whole runs: short runs of three stages, and the counting of checks.
set -u
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

# run NAME MODEL [flags]; LAUNCH goes before the program
run() {
    log=$work/$1.log
    run_shown "$@" >>"$log" 2>&1
}

# The same, to the terminal.
run_shown() {
    to=$1
    of=$2
    shift 2
    ${LAUNCH:-} ./train -runs "$work" -name "$to" -model "$of" -layers 2 -channels 64 \
        -data "$work/text.jsonl" -rl.data "$work/problems.jsonl" -val_data embedded:sentences \
        -val_fraction 0.0001 -val_rows 130 -eval_problems embedded:arithmetic -eval_count 4 \
        -eval_samples 2 -eval_new_tokens 12 -pretrain.steps 60 -midtrain.steps 20 -rl.steps 10 \
        -batch 8 -context 64 -lr 3e-3 -rl.lr 1e-4 -groups 2 -group_size 8 -rl.max_new_tokens 12 \
        -bias_rate 1e-3 -checkpoint_every 4 -seed 3 "$@"
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

rl_losses() { # RL steps of a run that had a group to learn from
    grep '"stage":"rl"' "$work/$1/metrics.jsonl" | grep -c '"kept_groups":[1-9]'
}

# FIRST SECOND [TOLERANCE] [COUNT]: the losses of all steps and of held-out text, more than COUNT
# (50) of them, agree to TOLERANCE (1e-6) relative
losses_agree() {
    python3 - "$work/$1/metrics.jsonl" "$work/$2/metrics.jsonl" "${3:-1e-6}" "${4:-50}" "${5:-pretrain midtrain rl}" <<'PYTHON'
import json
import sys

runs = [[json.loads(line) for line in open(path)] for path in sys.argv[1:3]]
tolerance, count, stages = float(sys.argv[3]), int(sys.argv[4]), sys.argv[5].split()
losses = [[(row["global_step"], row[key]) for row in run if row["stage"] in stages
           for key in ("loss", "val_ce") if key in row] for run in runs]
worst = max(abs(a[1] - b[1]) / abs(a[1]) for a, b in zip(*losses))
print(f"        {len(losses[0])} losses, largest relative difference {worst:.1e}")
sys.exit(not (len(losses[0]) > count and [a[0] for a in losses[0]] == [b[0] for b in losses[1]] and worst < tolerance))
PYTHON
}

# stopped NAME POINT:N [flags]: starts the run in the background and returns when it has stopped itself there;
# continued NAME lets it go on and returns its exit code.
stopped() {
    name=$1
    at=$2
    shift 2
    PRIOR_FAULT=$at:STOP run "$name" tiny "$@" &
    shell=$!
    while kill -0 $shell 2>/dev/null && ! ps -o stat= -p "$(pgrep -f -- "-runs $work -name $name ")" | grep -q T; do
        sleep 0.02
    done
}
continued() {
    pkill -CONT -f -- "-runs $work -name $1 "
    wait $shell
}

finish() {
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
}
