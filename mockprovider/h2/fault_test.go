// SPDX-License-Identifier: Apache-2.0

package h2_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider/h2"
)

func TestDelayedResponseIsOvertaken(t *testing.T) {
	h := &handler{decide: func(r *h2.Request) h2.Decision {
		d := h2.Decision{Response: h2.Response{Status: 200}, Processed: true}
		if r.Path == "/slow" {
			d.Delay, d.Fault = 20*time.Millisecond, "delay"
		}
		return d
	}}
	client, _ := open(t, many, h)
	slow, fast := client.Request("", fields("/slow")...), client.Request("", fields("/fast")...)
	if a, b := client.Response(), client.Response(); a.Stream != fast || b.Stream != slow {
		t.Errorf("got %+v and %+v", a, b)
	}
	client.Ping()
	h.wantRecords(t, `1 /slow "delay" true true`, `3 /fast "" true true`)
}

func TestStreamIsReset(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision {
		return h2.Decision{RST: true, Code: http2.ErrCodeInternal, Fault: "rst"}
	}}
	client, _ := open(t, many, h)
	client.Request("", fields("/")...)
	if r := client.Response(); r.Code != http2.ErrCodeInternal {
		t.Errorf("got %+v", r)
	}
	h.wantRecords(t, `1 / "rst" false false`)
}

func TestGoAwayKeepsAnsweredStreams(t *testing.T) {
	h := &handler{decide: func(r *h2.Request) h2.Decision {
		d := h2.Decision{Response: h2.Response{Status: 200}, Processed: true}
		if r.Path == "/open" {
			d.Delay = time.Hour
		}
		return d
	}}
	client, s := open(t, many, h)
	client.Request("", fields("/answered")...)
	client.Response()
	client.Request("", fields("/open")...)
	client.Ping()
	s.conn.GoAway(h2.GoAway{LastOffset: -10, Code: http2.ErrCodeEnhanceYourCalm, Debug: "debug"})
	goAway, debug, err := client.ReadToEnd()
	if goAway == nil || goAway.LastStreamID != 1 || goAway.ErrCode != http2.ErrCodeEnhanceYourCalm || debug != "debug" || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v %q %v", goAway, debug, err)
	}
	testwait.For(t, s.done, "the end of the connection")
	h.wantRecords(t, `1 /answered "" true true`, `3 /open "goaway" false false`)
}

func TestGoAwayBeforeTheStartDoesNothing(t *testing.T) {
	client, s := connect(t, many, &handler{})
	s.conn.GoAway(h2.GoAway{})
	client.Open()
	client.Request("", fields("/")...)
	if r := client.Response(); r.Status != 200 {
		t.Errorf("got %+v", r)
	}
}

func TestResetProcessesTheOldestShare(t *testing.T) {
	h := &handler{decide: func(*h2.Request) h2.Decision {
		return h2.Decision{Response: h2.Response{Status: 200}, Processed: true, Delay: time.Hour, Fault: "delay"}
	}}
	client, s := open(t, many, h)
	for range 4 {
		client.Request("", fields("/")...)
	}
	client.Ping()
	s.conn.Reset(0.5)
	if _, _, err := client.ReadToEnd(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
	testwait.For(t, s.done, "the end of the connection")
	h.wantRecords(t, `1 / "reset" true false`, `3 / "reset" true false`, `5 / "reset" false false`, `7 / "reset" false false`)
}

func TestFrozenConnectionContinuesAfterwards(t *testing.T) {
	h := &handler{}
	client, s := open(t, many, h)
	s.conn.Freeze(true)
	s.conn.Freeze(true)
	client.Request("", fields("/")...)
	time.Sleep(10 * time.Millisecond)
	h.wantRecords(t)
	s.conn.Freeze(false)
	if r := client.Response(); r.Status != 200 {
		t.Errorf("got %+v", r)
	}
}
