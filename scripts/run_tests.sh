#!/bin/sh
# Runs a Catch2 binary and counts its test cases: scripts/run_tests.sh BINARY [FILTER]
set -u
binary=$1
shift
out=$("$binary" "$@" -r compact 2>&1)
status=$?
echo "$out"
count=$("$binary" "$@" --list-test-names-only 2>/dev/null | grep -c . || true)
[ "$count" -gt 0 ] || count=$("$binary" "$@" --list-tests -v quiet 2>/dev/null | grep -c . || true)
bad=$(echo "$out" | sed -n 's/.*ailed \(both \)*\([0-9]*\) test case.*/\2/p' | tail -1)
if [ $status -eq 0 ]; then bad=0; elif [ -z "$bad" ]; then bad=1; fi
echo "$((count - bad)) passed, $bad failed"
[ $status -eq 0 ]
