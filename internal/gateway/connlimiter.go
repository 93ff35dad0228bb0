// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// connLimiter is a listener with a limit on its open connections. At the limit, a new connection
// replaces the one that has been without a request for the longest time, and Accept waits only
// while every connection has a request. Clients without an API key can therefore neither use up the
// file descriptors of the process nor lock out other clients.
type connLimiter struct {
	net.Listener
	limit int

	count   atomic.Int64 // open connections
	evicted atomic.Uint64

	mu     sync.Mutex
	freed  sync.Cond                  // a connection was closed or became idle, or the listener was closed
	conns  map[net.Conn]*list.Element // open connections; nil for one with a request
	idle   list.List                  // connections without a request, the longest idle first
	closed bool
}

func newConnLimiter(limit int) *connLimiter {
	l := &connLimiter{limit: limit, conns: map[net.Conn]*list.Element{}}
	l.freed.L = &l.mu
	return l
}

// Accept waits for a connection and for room for it.
func (l *connLimiter) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.conns) >= l.limit && !l.closed {
		if oldest := l.idle.Front(); oldest != nil {
			victim := l.idle.Remove(oldest).(net.Conn)
			delete(l.conns, victim)
			l.evicted.Add(1)
			_ = victim.Close() // returns when the descriptor is free
		} else {
			l.freed.Wait()
		}
	}
	if l.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	l.conns[conn] = l.idle.PushBack(conn)
	l.count.Store(int64(len(l.conns)))
	return conn, nil
}

// Close closes the listener. It does not close connections.
func (l *connLimiter) Close() error {
	l.mu.Lock()
	l.closed = true
	l.freed.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}

// track is the ConnState hook of the server.
func (l *connLimiter) track(conn net.Conn, state http.ConnState) {
	conn = withoutTLS(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	element, open := l.conns[conn]
	if !open { // it was evicted
		return
	}
	if element != nil {
		l.idle.Remove(element)
		l.conns[conn] = nil
	}
	switch state {
	case http.StateNew, http.StateIdle:
		l.conns[conn] = l.idle.PushBack(conn)
		l.freed.Broadcast()
	case http.StateClosed, http.StateHijacked:
		delete(l.conns, conn)
		l.count.Store(int64(len(l.conns)))
		l.freed.Broadcast()
	}
}

// ConnectionStatus is the state of the connections of the API.
type ConnectionStatus struct {
	Open  int `json:"open"`
	Limit int `json:"limit"`
	// Evicted is the number of connections that were closed at the limit, because they had no
	// request, to make room for others.
	Evicted uint64 `json:"evicted"`
}

func (l *connLimiter) status() ConnectionStatus {
	return ConnectionStatus{Open: int(l.count.Load()), Limit: l.limit, Evicted: l.evicted.Load()}
}

// maxAdminConns limits the connections of the admin listener.
const maxAdminConns = 100

// connectionLimit returns the limit for the connections of the API. Half of the file descriptors of
// the process are reserved for connections to providers and for files of the queue.
func connectionLimit(configured int) int { return min(configured, maxOpenFiles()/2) }
