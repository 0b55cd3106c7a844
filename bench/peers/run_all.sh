#!/bin/bash
# Everything: install, the three parts, the tables. About 40 minutes on 2 noisy cores. QUICK=1: one repetition, about 15.
# A part that cannot run (no Go: no S3 server) is said, and the others go on.
set -u
cd "$(dirname "$0")"; r=${QUICK:+1}; r=${r:-3}; bad=0
part() { python3 "$@" || { echo "run_all: *** $* failed" >&2; bad=1; }; }
./setup.sh
part part1.py --reps "$r" --pin; part part1.py --reps "$r"; part part2.py --reps "$r"; part part3.py --reps "$r"; part report.py
exit $bad
