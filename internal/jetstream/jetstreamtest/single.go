// SPDX-License-Identifier: Apache-2.0

package jetstreamtest

import (
	"io"
	"net"
	"sync"
	"testing"

	nats "github.com/nats-io/nats-server/v2/server"
)

// StartServer starts a server in this process that gateways can share, and returns its URL. It
// stops when the test ends.
func StartServer(t testing.TB) string {
	t.Helper()
	return NewServer(t, t.TempDir()).URL
}

// Server is a server in this process that a test can stop and start again. Clients connect through
// a relay, which keeps the address while the server is down.
type Server struct {
	// URL is the address for clients.
	URL string

	t        testing.TB
	dir      string
	relay    net.Listener
	relaying sync.WaitGroup

	mu   sync.Mutex
	live *nats.Server // nil while the server is down
}

// NewServer starts a server that stores its data in dir. It stops when the test ends.
func NewServer(t testing.TB, dir string) *Server {
	t.Helper()
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: "nats://" + relay.Addr().String(), t: t, dir: dir, relay: relay}
	s.relaying.Go(s.accept)
	t.Cleanup(func() {
		_ = relay.Close()
		s.Stop()
		s.relaying.Wait()
	})
	s.Start()
	return s
}

// Start starts the server. It must be down.
func (s *Server) Start() {
	s.t.Helper()
	live, err := nats.NewServer(&nats.Options{
		Host: "127.0.0.1", Port: nats.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: s.dir, JetStreamMaxStore: 1 << 40, // the default depends on the free disk space
	})
	if err != nil {
		s.t.Fatal(err)
	}
	live.Start()
	if !live.ReadyForConnections(timeout) {
		s.t.Fatal("NATS does not start")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = live
}

// Stop stops the server, if it runs.
func (s *Server) Stop() {
	s.mu.Lock()
	live := s.live
	s.live = nil
	s.mu.Unlock()
	if live != nil {
		live.Shutdown()
		live.WaitForShutdown()
	}
}

// accept relays connections until the listener is closed.
func (s *Server) accept() {
	for {
		client, err := s.relay.Accept()
		if err != nil {
			return
		}
		s.relaying.Go(func() { s.forward(client) })
	}
}

// forward connects a client to the server. Without a server it closes the connection.
func (s *Server) forward(client net.Conn) {
	defer func() { _ = client.Close() }()
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	if live == nil {
		return
	}
	server, err := net.Dial("tcp", live.Addr().String())
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	s.relaying.Go(func() {
		_, _ = io.Copy(server, client) // ends when either side closes
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
}
