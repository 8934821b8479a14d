#!/bin/sh
# scripts/report.py on real short runs of two priors and an evaluation: the page has all its parts, holds what the
# run folders hold, and loads nothing. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh

part() { # DESCRIPTION ARGUMENTS: of test/report_parts.py
    what=$1
    shift
    check "$what" python3 test/report_parts.py "$work/report.html" "$@"
}

run plain tiny -threads 2 -pretrain.steps 80
run sharper tiny-moe -threads 2 -beta -0.25 -stages pretrain
./rollout evaluate test/data/gsm8k.jsonl test/data/amc23.jsonl -n 8 -k 4 -temperature 1 -max_new_tokens 12 \
    -model "$work/plain" -out "$work/evaluated.jsonl" >/dev/null 2>&1
printf '{"kind":"step","torn' >>"$work/sharper/metrics.jsonl"
printf '{"id":"</script><b>","sample":0,"prompt":"</script>@DATA@","response":"<i>x</i>\342\200\250\302\205","right":false}\n' \
    >"$work/plain/samples/hostile.jsonl"

check "a page is made" python3 scripts/report.py "$work/plain" "$work/sharper" "$work/evaluated.jsonl.json" \
    -o "$work/report.html"
part "it is well-formed and loads nothing" whole
part "its sections" sections stages priors pretrain midtrain rl pass samples
part "curves of pre-training, of both runs" figures pretrain 2 "Loss" "Perplexity" "Entropy" "Head mass" "Tail mass"
part "curves of mid-training" figures midtrain 1 "Loss" "Perplexity" "Entropy" "Head mass" "Tail mass"
part "curves of RL" figures rl 1 "Reward" "Kept groups" "Response length" "Entropy"
part "Pass@k after every stage of both runs, and of the evaluation's sets" figures pass 4 "Pass@k"
part "where the recipes differ" text priors "pretrain.beta" "-0.25"
part "values of metrics.jsonl in the table" table "$work/plain/metrics.jsonl"
part "samples as they are in the run folder" samples "$work/plain/samples"
check "a folder without a run is refused" sh -c '! python3 scripts/report.py "$1" 2>/dev/null' - "$work/absent"
check "and one without the experiment's runs" \
    sh -c 'python3 scripts/prior_table.py -runs "$1" 2>&1 >/dev/null | grep -q "^prior_table: .* has no run embedded_"' - "$work"
finish
