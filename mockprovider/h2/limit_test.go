// SPDX-License-Identifier: Apache-2.0

package h2_test

import (
	"fmt"
	"testing"

	"golang.org/x/net/http2"

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
