// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
)

// dialTCP opens a connection to the API and writes text. It is closed at the end of the test.
func (h testGateway) dialTCP(text string) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testwait.Bound)); err != nil {
		h.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// newConnection makes a request on a connection of its own and returns the status.
func (h testGateway) newConnection(ctx context.Context, path string) (int, error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+h.key)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err
	}
	_ = response.Body.Close()
	return response.StatusCode, nil
}

const twentyConnections = "limits: {connections: 20}\n"

// TestSilentConnectionsLockOutNobody fills the limit with connections that never complete a request.
// A new connection replaces one of them immediately.
func TestSilentConnectionsLockOutNobody(t *testing.T) {
	for name, text := range map[string]string{
		"silent":                     "",
		"incomplete header":          "GET /livez HTTP/1.1\r\nHost:",
		"HTTP/2 without a request":   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"incomplete HTTP/2 preface":  "PRI * HTTP/2.0\r\n\r\nSM",
		"idle after a request":       "GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n",
		"idle without authorization": "GET /v1/status HTTP/1.1\r\nHost: gateway\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newMockEnv(t)
			h := s.start(t, listenConfig+twentyConnections+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
			for range 50 {
				h.dialTCP(text)
			}
			for range 10 {
				if status, err := h.newConnection(t.Context(), "/v1/status"); err != nil || status != http.StatusOK {
					t.Errorf("%d %v", status, err)
				}
			}
			if got := h.gw.Status().Connections; got.Limit != 20 || got.Open > 20 || got.Evicted < 30 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestConnectionsWithRequestsAreNotEvicted fills the limit with event feeds. A new connection waits
// until one of them ends.
func TestConnectionsWithRequestsAreNotEvicted(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+twentyConnections+"queue: {dir: '"+t.TempDir()+"'}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	var feeds []net.Conn
	for range 20 {
		feeds = append(feeds, h.dialTCP("GET /v1/apps/shop/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer "+h.key+"\r\n\r\n"))
	}
	for _, feed := range feeds {
		if line, err := bufio.NewReader(feed).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatal(line, err)
		}
	}
	served := make(chan error, 1)
	go func() {
		_, err := h.newConnection(t.Context(), "/livez")
		served <- err
	}()
	testwait.Until(t, func() bool { return h.gw.Status().Connections.Open == 20 }, "20 connections")
	select {
	case err := <-served:
		t.Fatalf("served beyond the limit: %v", err)
	default:
	}
	_ = feeds[0].Close()
	if err := testwait.For(t, served, "the new connection"); err != nil {
		t.Error(err)
	}
	if open := h.gw.Status().Connections.Open; open < 19 {
		t.Errorf("%d connections: a feed was closed", open)
	}
	if evicted := h.gw.Status().Connections.Evicted; evicted > 1 { // 1 if the server has not noticed the end of feeds[0]
		t.Errorf("%d evicted", evicted)
	}
}

// TestDrainWhileAcceptWaits ends a gateway at its limit.
func TestDrainWhileAcceptWaits(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+twentyConnections+"queue: {dir: '"+t.TempDir()+"'}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	for range 30 {
		h.dialTCP("GET /v1/apps/shop/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + h.key + "\r\n\r\n")
	}
	testwait.Until(t, func() bool { return h.gw.Status().Connections.Open == 20 }, "20 connections")
	if err := h.stop(); err != nil {
		t.Error(err)
	}
}

// TestConnectionTimeoutsAreConfigurable waits for the gateway to close connections, for less than the
// default timeouts.
func TestConnectionTimeoutsAreConfigurable(t *testing.T) {
	s := newMockEnv(t)
	h := s.start(t, listenConfig+"limits: {header_timeout: 100ms, idle_timeout: 1s}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	for _, text := range []string{"", "GET / HTTP/1.1\r\n", "GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"} {
		conn := h.dialTCP(text)
		if err := conn.SetDeadline(time.Now().Add(9 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}
