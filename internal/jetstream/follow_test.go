// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// messageHandler passes on the texts of log lines that its channel has room for.
type messageHandler struct {
	slog.Handler
	messages chan string
}

func (h messageHandler) Handle(_ context.Context, r slog.Record) error {
	select {
	case h.messages <- r.Message:
	default:
	}
	return nil
}

// TestLogEndsWhileStreamCannotBeRead deletes the stream: as without a leader, there can be no consumer. The
// log ends nevertheless.
func TestLogEndsWhileStreamCannotBeRead(t *testing.T) {
	h := messageHandler{slog.NewTextHandler(io.Discard, nil), make(chan string, 100)}
	url := jetstreamtest.StartServer(t)
	f, other := openLogAt(t, jetstream.Config{URL: url, Logger: slog.New(h)}), openLogAt(t, jetstream.Config{URL: url})
	if _, err := other.Append(t.Context(), textRecord("text")); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool { return f.LastSeq() == 1 }, "the log has read the message of the other one")
	other.stop()
	if err := f.engine.JetStream().DeleteStream(t.Context(), logStream().Name); err != nil {
		t.Fatal(err)
	}
	for message := ""; message != "cannot read the stream; retrying"; {
		message = testwait.For(t, h.messages, "the log says that it cannot read the stream")
	}
	testwait.Call(t, f.stop, "the end of the log")
}

// checkFollowers appends records with two logs of one cluster, while disturb stops and starts servers. Each
// record is stored once, at the offset that Append returns, and both logs get all messages in the same order,
// without a gap and without a repetition.
func checkFollowers(t *testing.T, cfg jetstream.Config, disturb func(logs []*logFixture, appended func() int)) {
	logs := []*logFixture{openLogAt(t, cfg), openLogAt(t, cfg)}
	var mu sync.Mutex
	want := map[jetstream.Offset]string{}
	var callers sync.WaitGroup
	var stop atomic.Bool
	for caller := range 4 {
		callers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				text := fmt.Sprintf("%d.%d", caller, i)
				offsets, err := logs[caller%2].Append(t.Context(), textRecord(text))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[offsets[0]] = text
				mu.Unlock()
			}
		})
	}
	disturb(logs, func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(want)
	})
	stop.Store(true)
	testwait.Call(t, callers.Wait, "the end of all callers")
	for _, f := range logs {
		if err := f.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range logs {
		f.mu.Lock()
		got := map[jetstream.Offset]string{}
		own := 0
		for k, m := range f.observed {
			if m.Seq != uint64(k+1) || m.FirstSeq != 0 {
				t.Fatalf("message %d is number %d", m.Seq, k)
			}
			isOwn := m.Writer == f.Writer()
			if isOwn {
				own++
			}
			for index, r := range m.Records {
				got[jetstream.Offset{Seq: m.Seq, Index: index}] = string(r.Data)
				if (r.Tag == nil) == isOwn {
					t.Fatalf("the tag of %q is %v, written by %s", r.Data, r.Tag, m.Writer)
				}
			}
		}
		f.mu.Unlock()
		if len(got) != len(want) || own == 0 || own == len(f.observed) {
			t.Errorf("log %d has %d records, %d were appended; %d of %d messages are its own", i, len(got), len(want), own, len(f.observed))
		}
		for at, text := range want {
			if got[at] != text {
				t.Fatalf("%q at %v, want %q", got[at], at, text)
			}
		}
		stored := slices.Sorted(maps.Values(f.stored(t)))
		if all := slices.Sorted(maps.Values(want)); !slices.Equal(stored, all) {
			t.Errorf("%d records stored, %d appended", len(stored), len(all))
		}
	}
}

// TestLogsOfClusterContinueAfterLostResponses cuts the connections of two logs to their server, also while
// the server stores a message whose response is lost.
func TestLogsOfClusterContinueAfterLostResponses(t *testing.T) {
	server := jetstreamtest.NewServer(t, t.TempDir())
	checkFollowers(t, jetstream.Config{URL: server.URL}, func(_ []*logFixture, appended func() int) {
		for range 4 {
			at := appended() + 20
			testwait.Until(t, func() bool { return appended() >= at }, "writes before the failure")
			server.Stop()
			server.Start()
		}
		last := appended()
		testwait.Until(t, func() bool { return appended() > last }, "a write after the last failure")
	})
}

// TestLogsFollowThroughElections kills the servers of a cluster in turn.
func TestLogsFollowThroughElections(t *testing.T) {
	servers := jetstreamtest.NewCluster(t)
	checkFollowers(t, servers.Account(t), func(_ []*logFixture, appended func() int) {
		for i := range 3 {
			at := appended() + 20
			testwait.Until(t, func() bool { return appended() >= at }, "writes before the failure")
			servers.Kill(i)
			at = appended() + 20
			testwait.Until(t, func() bool { return appended() >= at }, "writes without the server")
			if err := servers.Start(i); err != nil {
				t.Fatal(err)
			}
		}
	})
}
