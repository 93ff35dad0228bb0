// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// dialHTTP2 begins HTTP/2 on a connection without TLS, and returns its frames.
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
	for { // until the connection is idle in the server's eyes too
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
		told := false
		for {
			frame, err := frames.ReadFrame()
			if err != nil {
				break
			}
			if away, ok := frame.(*http2.GoAwayFrame); ok {
				told = true
				if away.LastStreamID != 0 && away.LastStreamID != 1<<31-1 {
					t.Errorf("connection %d: the last stream is %d", i, away.LastStreamID)
				}
			}
		}
		if !told {
			t.Errorf("connection %d ended without GOAWAY", i)
		}
	}
}
