// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// dialHTTP2 opens an HTTP/2 connection without TLS and returns its framer.
func dialHTTP2(t *testing.T, url string) *http2.Framer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	frames := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := frames.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for { // until the server considers the connection idle too
		frame, err := frames.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && settings.IsAck() {
			return frames
		}
	}
}

func TestIdleHTTP2ConnectionGetsGoAwayOnShutdown(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	var idle []*http2.Framer
	for range 20 {
		idle = append(idle, dialHTTP2(t, h.url))
	}
	go func() { _ = h.stop() }()
	for i, frames := range idle {
		gotGoAway := false
		for {
			frame, err := frames.ReadFrame()
			if err != nil {
				break
			}
			if goAway, ok := frame.(*http2.GoAwayFrame); ok {
				gotGoAway = true
				if goAway.LastStreamID != 0 && goAway.LastStreamID != 1<<31-1 {
					t.Errorf("connection %d: last stream ID %d", i, goAway.LastStreamID)
				}
			}
		}
		if !gotGoAway {
			t.Errorf("connection %d ended without GOAWAY", i)
		}
	}
}
