#!/usr/bin/env bash
# Compares the benchmarks of a commit (BASE, default HEAD) with those of the work tree, with benchstat. COUNT rounds of
# BENCHTIME alternate between the two, because the speed of a machine varies. Arguments are packages; without any it compares
# every package that has a benchmark. BENCHES is the pattern of the benchmarks. The output of the runs is in data/benchstat.
set -euo pipefail
cd "$(dirname "$0")/.."

base=$(git rev-parse --verify "${BASE:-HEAD}^{commit}")
dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/base" 2>/dev/null; rm -rf "$dir"' EXIT
git worktree add --quiet --detach "$dir/base" "$base"

module=$(go list -m)
[ $# -gt 0 ] || set -- ./...
packages=()
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' "$@"); do
  package=.${package#"$module"}
  if ! grep -qs '^func Benchmark' "$package"/*_test.go; then
    continue
  fi
  name=${package//[.\/]/_}
  if ! (cd "$dir/base" && go test -c -o "$dir/old$name" "$package") || ! [ -e "$dir/old$name" ]; then
    echo "benchstat: $package has no tests in $base" >&2
    continue
  fi
  go test -c -o "$dir/new$name" "$package"
  packages+=("$package")
done

out=$PWD/data/benchstat
mkdir -p "$out"
rm -f "$out"/old.txt "$out"/new.txt
run() { # tree side package
  (cd "$1/$3" && "$dir/$2${3//[.\/]/_}" -test.run '^$' -test.bench "${BENCHES:-.}" -test.benchmem -test.benchtime "${BENCHTIME:-300ms}" -test.timeout 0) \
    >>"$out/$2.txt" || echo "benchstat: the benchmarks of $3 failed ($2)" >&2
}
for round in $(seq "${COUNT:-6}"); do
  echo "round $round" >&2
  for package in "${packages[@]}"; do
    run "$dir/base" old "$package"
    run "$PWD" new "$package"
  done
done
go tool -modfile=tools/go.mod benchstat "old=$out/old.txt" "new=$out/new.txt"
