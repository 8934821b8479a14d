#!/bin/sh
# The main job in one command: installs what is missing, builds, runs the three stages of the embedded
# recipe, prints the table and writes report.html. Flags are passed to ./train, e.g. -beta -0.25. The
# same command again resumes an interrupted run, or prints the table of a complete one.
set -eu
cd "$(dirname "$0")/.."

sh scripts/setup.sh
if ! make -q train rollout >/dev/null 2>&1; then
    echo "building ./train and ./rollout, some minutes the first time"
    make -s train rollout
fi
./train "$@"
run=runs/latest # the link ./train sets
python3 scripts/report.py "$run" -o report.html
echo "report: report.html"
