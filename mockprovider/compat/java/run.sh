#!/usr/bin/env bash
# Sends through `gateway mock` with pushy, unmodified. Needs Go, a JDK 11 or newer, Maven and its central repository.
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
  kill -0 "$mock" # it has ended: so does this
  sleep 0.1
done

at() { sed -n "s/^  \"$1\": \"\(.*\)\",\{0,1\}$/\1/p" "$work/ready.json"; }
timeout 60 java -cp "target/classes:$(cat target/classpath)" Pushy \
  "$(at apns)" "$(at script)" "$(at ca_file)" "$(at apns_key_file)" "$(at apns_team_id)" "$(at apns_key_id)"
