#!/usr/bin/env bash
# Sends to `gateway mock` with unmodified npm libraries. Requires Go, Node 20 or newer, npm and the npm registry.
set -euo pipefail
cd "$(dirname "$0")"
node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' || { echo "Node 20 or newer is required." >&2; exit 1; }

work=$(mktemp -d)
mock=
cleanup() {
  [ -z "$mock" ] || { kill "$mock" && wait "$mock" || true; }
  rm -rf "$work"
}
trap cleanup EXIT

(cd ../../.. && go build -o "$work/gateway" ./cmd/gateway)
npm ci --ignore-scripts --no-audit --no-fund --prefer-offline --loglevel=error

echo 'keep_content: true' >"$work/mock.yaml"
"$work/gateway" mock -c "$work/mock.yaml" --keys "$work/keys" --ready-file "$work/ready.json" >/dev/null &
mock=$!
for _ in $(seq 600); do
  [ -s "$work/ready.json" ] && break
  kill -0 "$mock" # fails if the mock has ended
  sleep 0.1
done

export MOCK="$work/ready.json" NODE_EXTRA_CA_CERTS="$work/keys/ca.pem"
node --test --test-concurrency=1 --test-reporter=spec
