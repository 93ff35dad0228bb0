// SPDX-License-Identifier: Apache-2.0

package h2_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/h2/h2test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// many is a config whose stream limit does not matter.
var many = h2.Config{Streams: h2.Streams{Start: 1000, Max: 1000}, MaxHeaderList: 8000}

// handler is an h2.Handler that accepts every request, unless decide is set.
type handler struct {
	decide func(*h2.Request) h2.Decision
	silent bool

	mu                           sync.Mutex
	records                      []string // "stream path fault processed answered"
	inFlight, refused, violation int
}

func (h *handler) Decide(r *h2.Request) h2.Decision {
	if h.decide == nil {
		return h2.Decision{Response: h2.Response{Status: 200, Accepted: true}, Processed: true}
	}
	return h.decide(r)
}

func (h *handler) Record(stream uint32, r *h2.Request, d *h2.Decision, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = append(h.records, fmt.Sprintf("%d %s %q %t %t", stream, r.Path, d.Fault, d.Processed, answered))
}

func (h *handler) Silent() bool { return h.silent }

func (h *handler) StreamsInFlight(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inFlight = n
}

func (h *handler) StreamRefused(violation bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused++
	if violation {
		h.violation++
	}
}

// wantStreams compares the counts of streams.
func (h *handler) wantStreams(t *testing.T, inFlight, refused, violation int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inFlight != inFlight || h.refused != refused || h.violation != violation {
		t.Errorf("%d in flight, %d refused, %d violations; want %d, %d, %d", h.inFlight, h.refused, h.violation, inFlight, refused, violation)
	}
}

// wantRecords compares the records, in any order.
func (h *handler) wantRecords(t *testing.T, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	got := slices.Sorted(slices.Values(h.records))
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("records %q, want %q", got, want)
	}
}

// server serves one connection.
type server struct {
	conn *h2.Conn
	done chan struct{} // closed when Serve has returned
}

// connect serves one connection and returns both ends. The client has not written anything yet.
func connect(t *testing.T, cfg h2.Config, h *handler) (*h2test.Client, *server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client := h2test.Dial(t, listener.Addr().String(), &tls.Config{RootCAs: roots(), ServerName: "mock.example", NextProtos: []string{"h2"}})
	nc, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{conn: h2.NewConn(nc.(*net.TCPConn), cfg, h), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer s.conn.Close()
		if _, err := s.conn.Handshake(&tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2"}}, 0, 0); err == nil {
			s.conn.Serve()
		}
	}()
	t.Cleanup(func() {
		s.conn.Close()
		<-s.done
	})
	return client, s
}

// open is connect for a connection on which SETTINGS have been exchanged and acknowledged.
func open(t *testing.T, cfg h2.Config, h *handler) (*h2test.Client, *server) {
	t.Helper()
	client, s := connect(t, cfg, h)
	client.Open()
	if !h.silent {
		client.Ping()
	}
	return client, s
}

// fields returns the header fields of a request.
func fields(path string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "https", ":authority", "mock.example", ":path", path}, more...)
}

// certificate returns the certificate of all servers, which signs itself.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mock.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func roots() *x509.CertPool {
	cert, err := x509.ParseCertificate(certificate().Certificate[0])
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}
