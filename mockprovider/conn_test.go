// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"fmt"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/mockprovider/h2/h2test"
)

// frameClient is a client of APNs that sends single frames.
type frameClient struct {
	*h2test.Client
	authorization string
}

// dial connects to an address. Without alpn, the client does not use ALPN.
func dial(t testing.TB, m *mockprovider.Mock, addr netip.AddrPort, alpn ...string) *frameClient {
	t.Helper()
	config := m.ClientTLS()
	config.ServerName, config.NextProtos = "api.push.apple.com", alpn
	return &frameClient{h2test.Dial(t, addr.String(), config), "bearer " + providerToken(t, m.Credentials()[0], 0)}
}

// open is dial for a connection on which SETTINGS have been exchanged.
func open(t testing.TB, m *mockprovider.Mock, addr netip.AddrPort) *frameClient {
	t.Helper()
	c := dial(t, m, addr, "h2")
	c.Open()
	return c
}

// pushFields returns the header fields of a push, with more fields.
func (c *frameClient) pushFields(token string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "https", ":authority", "api.push.apple.com", ":path", "/3/device/" + token,
		"authorization", c.authorization, "apns-topic", "com.example.app", "apns-push-type", "alert"}, more...)
}

// push sends a push and returns its stream.
func (c *frameClient) push(token string, more ...string) uint32 {
	c.T.Helper()
	return c.Request(payload, c.pushFields(token, more...)...)
}

func TestAPNsServesClientsWithoutALPN(t *testing.T) {
	m := mockprovider.Start(t)
	c := dial(t, m, m.APNsAddrs()[0])
	c.Preface()
	c.push(deviceToken)
	if r := c.Response(); r.Status != 200 || fmt.Sprint(r.Frames) != "[HEADERS(END_HEADERS,END_STREAM)]" {
		t.Fatalf("got %+v", r)
	}
}

func TestAPNsClosesHTTP1ConnectionsWithoutAResponse(t *testing.T) {
	m := mockprovider.Start(t)
	for _, alpn := range [][]string{nil, {"http/1.1"}} {
		c := dial(t, m, m.APNsAddrs()[0], alpn...)
		_, err := c.TLS.Write([]byte("POST /3/device/" + deviceToken + " HTTP/1.1\r\nHost: api.push.apple.com\r\n\r\n"))
		c.Must(err)
		if got, _ := io.ReadAll(c.TLS); len(got) != 0 {
			t.Errorf("got %q", got)
		}
	}
}

func TestAPNsStreamLimitRisesWithTheFirstAcceptedPush(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{ShrinkOn4xx: true}})
	c := open(t, m, m.APNsAddrs()[0])
	for _, token := range []string{deviceToken, "deadbeef", "dead0000" + deviceToken[8:], deviceToken} {
		c.push(token)
		c.Response()
		c.Ping()
	}
	if got, want := fmt.Sprint(c.Limits), "[1 1000 1 1000]"; got != want {
		t.Errorf("announced %s, want %s", got, want)
	}
}

func TestAPNsRefusesAStreamBeyondTheLimit(t *testing.T) {
	m := mockprovider.Start(t)
	c := open(t, m, m.APNsAddrs()[0])
	c.Ping()
	first := c.Headers(false, c.pushFields(deviceToken)...)
	second := c.push(deviceToken)
	if r := c.Response(); r.Stream != second || r.Code != http2.ErrCodeRefusedStream {
		t.Fatalf("got %+v", r)
	}
	c.Must(c.Frames.WriteData(first, true, []byte(payload)))
	if r := c.Response(); r.Stream != first || r.Status != 200 {
		t.Fatalf("got %+v", r)
	}
	s := m.Ledger().Summary().Services[mockprovider.APNs]
	if s.Refused != 1 || s.Violations != 1 || s.MaxInFlight != 1 || s.Requests != 1 || s.Accepted != 1 || s.Dials != 1 {
		t.Errorf("summary %+v", s.Counts)
	}
}

func TestFCMEndsAConnectionWithOver100Streams(t *testing.T) {
	m := mockprovider.Start(t)
	c := open(t, m, m.FCMAddrs()[0])
	c.Ping()
	for range 101 {
		c.Headers(false, c.pushFields("x")...)
	}
	goAway, ok := c.Read().(*http2.GoAwayFrame)
	if !ok || goAway.ErrCode != http2.ErrCodeProtocol || goAway.LastStreamID != 199 ||
		string(goAway.DebugData()) != "exceeded_max_concurrent_streams" {
		t.Fatalf("got %+v", goAway)
	}
}

// FuzzFrames checks that after any bytes from one client, the next client is served.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8})
	f.Add([]byte{0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x87, 0x84, 0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{0, 0, 2, 1, 1, 0, 0, 0, 3, 0x83, 0x87, 0, 0, 1, 9, 4, 0, 0, 0, 3, 0x84, 0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 1})
	f.Add([]byte{0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	m := mockprovider.Start(f, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}, LedgerSize: 1000})
	f.Fuzz(func(t *testing.T, frames []byte) {
		for _, addr := range []netip.AddrPort{m.APNsAddrs()[0], m.FCMAddrs()[0]} {
			c := dial(t, m, addr, "h2")
			c.Preface()
			_, _ = c.TLS.Write(frames)
			_ = c.TLS.CloseWrite()
			_, _ = io.Copy(io.Discard, c.TLS)
			_ = c.Raw.Close()
		}
		c := open(t, m, m.APNsAddrs()[0])
		c.push(deviceToken)
		if r := c.Response(); r.Status != 200 {
			t.Fatalf("got %+v", r)
		}
		_ = c.Raw.Close()
	})
}
