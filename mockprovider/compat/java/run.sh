#!/usr/bin/env bash
# Sends to `gateway mock` with unmodified pushy. Requires Go, JDK 11 or newer, Maven and its central repository.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
mock=
cleanup() {
  [ -z "$mock" ] || { kill "$mock" && wait "$mock" || true; }
  rm -rf "$work"
}
trap cleanup EXIT

(cd ../../.. && go build -o "$work/gateway" ./cmd/gateway)
mvn -q -B compile dependency:build-classpath -Dmdep.outputFile=target/classpath

"$work/gateway" mock --keys "$work/keys" --ready-file "$work/ready.json" >/dev/null &
mock=$!
for _ in $(seq 100); do
  [ -s "$work/ready.json" ] && break
  kill -0 "$mock" # fails if the mock has ended
  sleep 0.1
done

ready() { sed -n "s/^  \"$1\": \"\(.*\)\",\{0,1\}$/\1/p" "$work/ready.json"; }
timeout 60 java -cp "target/classes:$(cat target/classpath)" Pushy \
  "$(ready apns)" "$(ready script)" "$(ready ca_file)" "$(ready apns_key_file)" "$(ready apns_team_id)" "$(ready apns_key_id)"
