// SPDX-License-Identifier: Apache-2.0

package h2_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider/h2"
)

func TestStreamLimitFollowsResponses(t *testing.T) {
	h := &handler{decide: func(r *h2.Request) h2.Decision {
		status := map[string]int{"/accept": 200, "/reject": 400, "/gone": 410}[r.Path]
		return h2.Decision{Response: h2.Response{Status: status, Accepted: status == 200}, Processed: true}
	}}
	client, _ := open(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000, ShrinkOn4xx: true}}, h)
	for _, path := range []string{"/accept", "/reject", "/gone", "/accept"} {
		client.Request("", fields(path)...)
		client.Response()
		client.Ping()
	}
	if got, want := fmt.Sprint(client.Limits), "[1 1000 1 1000]"; got != want {
		t.Errorf("announced %s, want %s: a 410 does not shrink the limit", got, want)
	}
}

func TestStreamBeyondAKnownLimitIsAViolation(t *testing.T) {
	h := &handler{}
	client, _ := open(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000}}, h)
	first := client.Headers(false, fields("/")...)
	second := client.Request("", fields("/")...)
	if r := client.Response(); r.Stream != second || r.Code != http2.ErrCodeRefusedStream {
		t.Fatalf("got %+v", r)
	}
	client.Must(client.Frames.WriteData(first, true, nil))
	if r := client.Response(); r.Stream != first || r.Status != 200 {
		t.Fatalf("got %+v", r)
	}
	client.Ping()
	h.wantStreams(t, 1, 1, 1)
	h.wantRecords(t, `1 / "" true true`)
}

// TestStreamsBeforeTheAcknowledgementAreHeld sends requests like a client that does not wait for the
// SETTINGS of the server.
func TestStreamsBeforeTheAcknowledgementAreHeld(t *testing.T) {
	h := &handler{decide: func(r *h2.Request) h2.Decision {
		accepted := r.Path != "/reject"
		return h2.Decision{Response: h2.Response{Status: 200, Accepted: accepted}, Processed: true, Delay: 5 * time.Millisecond}
	}}
	client, _ := connect(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000}}, h)
	client.Preface()
	first := client.Headers(false, fields("/reject")...)
	cancelled := client.Request("", fields("/cancelled")...)
	part := client.Headers(false, fields("/part")...)
	client.Request("", fields("/accept")...)
	client.Request("", fields("/accept")...)
	client.Must(client.Frames.WriteRSTStream(cancelled, http2.ErrCodeCancel))
	client.Ping()
	h.wantStreams(t, 1, 0, 0)
	var order []uint32
	for _, id := range []uint32{first, part} {
		client.Must(client.Frames.WriteData(id, true, nil))
		order = append(order, client.Response().Stream)
	}
	order = append(order, client.Response().Stream, client.Response().Stream)
	slices.Sort(order[2:])
	if want := []uint32{1, 5, 7, 9}; !slices.Equal(order, want) {
		t.Errorf("responses on streams %d, want %d", order, want)
	}
	client.Ping()
	h.wantStreams(t, 2, 0, 0)
	h.wantRecords(t, `1 /reject "" true true`, `3 /cancelled "client reset" false false`, `5 /part "" true true`,
		`7 /accept "" true true`, `9 /accept "" true true`)
}

func TestHeldStreamsOfAnEndedConnectionAreRecorded(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision { return h2.Decision{Silent: true, Fault: "stall"} }}
	client, s := connect(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000}}, h)
	client.Preface()
	for range 3 {
		client.Request("", fields("/")...)
	}
	client.Ping()
	s.conn.GoAway(h2.GoAway{LastOffset: -1})
	client.Ping()
	s.conn.Close()
	testwait.For(t, s.done, "the end of the connection")
	h.wantRecords(t, `1 / "stall" false false`, `3 / "closed" false false`, `5 / "goaway" false false`)
}

func TestHigherLimitAdmitsHeldStreams(t *testing.T) {
	h := &handler{decide: func(r *h2.Request) h2.Decision {
		return h2.Decision{Response: h2.Response{Status: 200}, Processed: true, Silent: r.Path == "/silent"}
	}}
	client, s := connect(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1}}, h)
	client.Preface()
	client.Request("", fields("/silent")...)
	client.Request("", fields("/")...)
	client.Ping()
	s.conn.SetMaxStreams(2)
	if r := client.Response(); r.Stream != 3 || r.Status != 200 {
		t.Errorf("got %+v", r)
	}
}

// TestLowerLimitHoldsStreams lowers the limit: streams are held until the client has acknowledged it.
func TestLowerLimitHoldsStreams(t *testing.T) {
	client, s := open(t, h2.Config{Streams: h2.Streams{Start: 100, Max: 100}}, &handler{})
	first := client.Headers(false, fields("/")...)
	client.Ping()
	s.conn.SetMaxStreams(1)
	held := client.Request("", fields("/")...)
	client.Ping() // acknowledges the lower limit
	client.Ping()
	refused := client.Request("", fields("/")...)
	if r := client.Response(); r.Stream != refused || r.Code != http2.ErrCodeRefusedStream {
		t.Errorf("got %+v", r)
	}
	client.Must(client.Frames.WriteData(first, true, nil))
	for _, want := range []uint32{first, held} {
		if r := client.Response(); r.Stream != want || r.Status != 200 {
			t.Errorf("got %+v, want stream %d", r, want)
		}
	}
}

func TestStrictLimitRefusesStreamsBeforeTheAcknowledgement(t *testing.T) {
	h := &handler{}
	client, _ := connect(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000, Strict: true}}, h)
	client.Preface()
	client.Headers(false, fields("/")...)
	second := client.Request("", fields("/")...)
	if r := client.Response(); r.Stream != second || r.Code != http2.ErrCodeRefusedStream {
		t.Errorf("got %+v", r)
	}
	h.wantStreams(t, 1, 1, 0)
}

func TestUnadvertisedLimitIsEnforcedWithoutViolation(t *testing.T) {
	h := &handler{}
	client, _ := open(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000, Unadvertised: true}}, h)
	if client.Limits[0] != 1000 {
		t.Fatalf("announced %d", client.Limits[0])
	}
	client.Headers(false, fields("/")...)
	client.Request("", fields("/")...)
	if r := client.Response(); r.Code != http2.ErrCodeRefusedStream {
		t.Fatalf("got %+v", r)
	}
	client.Ping()
	h.wantStreams(t, 1, 1, 0)
}

func TestViolationCanEndTheConnection(t *testing.T) {
	client, _ := open(t, h2.Config{Streams: h2.Streams{Start: 100, Max: 100}, EndOnViolation: true}, &handler{})
	for range 101 {
		client.Headers(false, fields("/")...)
	}
	goAway, ok := client.Read().(*http2.GoAwayFrame)
	if !ok || goAway.ErrCode != http2.ErrCodeProtocol || goAway.LastStreamID != 199 ||
		string(goAway.DebugData()) != "exceeded_max_concurrent_streams" {
		t.Fatalf("got %+v", goAway)
	}
}

func TestSetMaxStreamsOverridesResponses(t *testing.T) {
	client, s := open(t, h2.Config{Streams: h2.Streams{Start: 1, Max: 1000}}, &handler{})
	s.conn.SetMaxStreams(3)
	client.Read()
	client.Request("", fields("/")...)
	client.Response()
	client.Ping()
	s.conn.SetMaxStreams(0)
	client.Read()
	if got, want := fmt.Sprint(client.Limits), "[1 3 1000]"; got != want {
		t.Errorf("announced %s, want %s", got, want)
	}
}
