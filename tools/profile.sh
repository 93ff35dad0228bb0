#!/usr/bin/env bash
# Profiles the gateway of gateway bench --dev, which runs the mock, the gateway and the load in three processes. For batches,
# single calls, and batches with a queue and a history, it writes data/profile/NAME.KIND.pb.gz and the 20 functions that use
# most to data/profile/NAME.KIND.txt; KIND is cpu, allocs or mutex. PROFILE is the length of each run.
set -euo pipefail
cd "$(dirname "$0")/.."

profile() {
  local name=$1 kind sample
  shift
  bin/gateway bench --dev --duration "${PROFILE:-15s}" --profile "data/profile/$name" "$@"
  for kind in cpu allocs mutex; do
    mv "data/profile/$name/$kind.pb.gz" "data/profile/$name.$kind.pb.gz"
    case $kind in allocs) sample=alloc_space ;; mutex) sample=delay ;; *) sample=cpu ;; esac
    go tool pprof -top -nodecount=20 -sample_index="$sample" bin/gateway "data/profile/$name.$kind.pb.gz" 2>/dev/null >"data/profile/$name.$kind.txt"
  done
  rmdir "data/profile/$name"
}
profile batch --no-queue --in-flight 4 --batch 500
profile single --no-queue --in-flight 64
profile queue --in-flight 4 --batch 500
echo; ls data/profile/*
