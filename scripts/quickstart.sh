#!/bin/sh
# The main job in one command: installs what is missing, builds, runs the three stages of the embedded
# recipe, prints the table and writes report.html. Flags are passed to ./train, e.g. -beta -0.25. The
# same command again resumes an interrupted run, or prints the table of a complete one.
set -eu
cd "$(dirname "$0")/.."

sh scripts/setup.sh
make -s train rollout
./train "$@"
run=runs/latest # the link ./train sets
# The packaged matplotlib belongs to the system's Python, which need not be the first in PATH.
python=python3
$python -c 'import matplotlib' 2>/dev/null || python=/usr/bin/python3
$python scripts/report.py "$run" -o report.html
echo "report: report.html"
