// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	nats "github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// TestRepairKnowsFormatOfServer writes every kind of record with the server in go.mod, in two blocks,
// and reads the files as repair does. If it fails after an update of the server, compare recordLen and
// replaceBlock with writeMsgRecordLocked, eraseMsg and rebuildStateFromBufLocked in its filestore.go
// before you change knownRelease or knownStateVersion. Until then, repair is off.
func TestRepairKnowsFormatOfServer(t *testing.T) {
	if !strings.HasPrefix(nats.VERSION, knownRelease) {
		t.Errorf("go.mod has nats-server %s; repair knows %s", nats.VERSION, knownRelease)
	}
	dir := t.TempDir()
	writeAllRecords(t, dir)
	blocks := blockSizes(dir)
	if len(blocks) < 2 {
		t.Errorf("blocks %v, want at least two", blocks)
	}
	for name := range blocks {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if ranges, end := newBlockReader(name).damagedRanges(data); len(ranges) > 0 || end != len(data) {
			t.Errorf("%s has %d bytes; the records end at %d, damaged: %v", name, len(data), end, ranges)
		}
	}
	states, err := filepath.Glob(filepath.Join(dir, messagesDirs, stateFile))
	if err != nil || len(states) != 1 {
		t.Fatal(states, err)
	}
	if version := stateVersion(states[0]); version != knownStateVersion {
		t.Errorf("the server writes version %d of %s; repair knows %d", version, stateFile, knownStateVersion)
	}
}

// writeAllRecords writes messages with and without headers, and deletes some in both ways of the server.
func writeAllRecords(t *testing.T, dir string) {
	t.Helper()
	e, err := Open(t.Context(), Config{Dir: dir, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := e.Stream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	const messages = 12
	for i := range messages {
		m := &client.Msg{Subject: "s.a", Data: make([]byte, 1<<20)} // a block has 8 MiB
		if i%2 == 0 {
			m.Header = client.Header{"Name": {"value"}}
		}
		if _, err := e.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for seq, remove := range map[uint64]func(context.Context, uint64) error{
		2: stream.DeleteMsg, 3: stream.SecureDeleteMsg, messages - 1: stream.DeleteMsg, messages: stream.SecureDeleteMsg,
	} {
		if err := remove(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownFormatIsRecognized(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", stateFile)
	if err := os.MkdirAll(filepath.Dir(state), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		release, state string
		unknown        bool
	}{
		{"2.15.2", "\x0b\x04rest", false},
		{"2.15.2", "\x0b\x01rest", false},
		{"2.15.2", "\x0b\x05rest", true},
		{"2.15.2", "", false}, // as after a power failure
		{"2.15.2", "\x00\x00\x00", false},
		{"2.16.0", "\x0b\x04rest", true},
		{"2.150.0", "", true},
	} {
		if err := os.WriteFile(state, []byte(c.state), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := unknownFormat(c.release, dir); (found != "") != c.unknown {
			t.Errorf("nats-server %s and %q: %q", c.release, c.state, found)
		}
	}
}
