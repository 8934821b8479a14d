#!/bin/sh
# Installs what is missing, builds with warnings as errors, runs every test, ends with "N passed, M failed".
#   lint, the kernels through nvcc if it is there, unit tests, slow tests, traced kernels, golden
#   vectors, the same unit tests under ASan and UBSan, resume tests, evaluations, the report, training through
#   the kernels, faults, corpora, files, memory, ranks, rollout ranks, kills at random instants
set -u
cd "$(dirname "$0")/.."
sh scripts/setup.sh || exit 1

# Threads that wait sleep: on a busy machine spinning ones hold up those they wait for.
export OMP_WAIT_POLICY=passive

passed=0
failed=0

# part NAME COMMAND...: one check that is passed or failed as a whole.
part() {
    name=$1
    shift
    echo "== $name"
    begin=$(date +%s)
    if "$@"; then
        passed=$((passed + 1))
    else
        echo "FAILED: $name"
        failed=$((failed + 1))
    fi
    echo "   $(($(date +%s) - begin)) s"
}

# counted NAME COMMAND...: adds the counts of the command's last "N passed, M failed" line.
counted() {
    name=$1
    shift
    begin=$(date +%s)
    log=$(mktemp)
    "$@" >"$log" 2>&1
    count $?
}

# beside NAME COMMAND...: the same for a command of one thread, while the next ones run; joined() waits for it.
beside() {
    beside_name=$1
    shift
    beside_begin=$(date +%s)
    beside_log=$(mktemp)
    "$@" >"$beside_log" 2>&1 &
    beside_process=$!
}
joined() {
    wait "$beside_process"
    status=$?
    name=$beside_name
    begin=$beside_begin
    log=$beside_log
    count $status
}

count() { # EXIT CODE
    status=$1
    echo "== $name"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -1)
    if [ -z "$line" ]; then
        tail -40 "$log"
        echo "FAILED: $name ended without a result (exit $status)"
        failed=$((failed + 1))
    else
        bad=$(echo "$line" | sed 's/.*, \([0-9]*\) failed/\1/')
        passed=$((passed + $(echo "$line" | sed 's/ passed.*//')))
        failed=$((failed + bad))
        [ "$bad" -eq 0 ] && [ "$status" -eq 0 ] || tail -60 "$log"
        if [ "$bad" -eq 0 ] && [ "$status" -ne 0 ]; then failed=$((failed + 1)); fi
        echo "$line"
    fi
    echo "   $(($(date +%s) - begin)) s"
    rm -f "$log"
}

part "lint" make -s lint
part "kernels through nvcc" make -s cuda-check
part "build" make -s train rollout data/prepare golden bench build/tests build/traced_tests
beside "traced kernels: races, traffic" sh scripts/run_tests.sh build/traced_tests
counted "unit and slow tests" sh scripts/run_tests.sh build/tests
counted "golden vectors" ./golden test/golden
joined
part "build with sanitizers" make -s asan
beside "unit tests under ASan and UBSan" sh scripts/run_tests.sh build-asan/tests '~[slow]'
counted "resume after kill -9" sh test/resume.sh
counted "evaluation after kill -9" sh test/evaluate.sh
counted "report" sh test/report.sh
counted "training through the kernels" sh test/simt.sh
counted "faults" sh test/faults.sh
counted "corpora" sh test/prepare.sh
counted "files for other programs" python3 test/test_files.py
counted "benchmark files, generated programs" python3 test/test_benchmarks.py
joined # ranks wait for each other and want both cores
counted "memory as planned" sh test/memory.sh
counted "ranks" sh test/ranks.sh
counted "rollout ranks" sh test/serve.sh
counted "kills at random instants" sh test/kills.sh 1 tiny-moe 2

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
