// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/quotalease"
)

var errUnreachable = errors.New("nobody answers")

// fakeCluster keeps documents, and reaches its members over lines that can be cut.
type fakeCluster struct {
	mu       sync.Mutex
	docs     map[string]entry
	revision uint64
	down     bool
}

type entry struct {
	text     string
	revision uint64
}

// loseAll forgets everything, as memory does.
func (c *fakeCluster) loseAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.docs, c.revision = nil, 0
}

// fakeConn is one member's way to the cluster.
type fakeConn struct {
	*fakeCluster
	cut           bool          // nothing arrives
	loseResponses bool          // what is written arrives, and its answer does not
	latency       time.Duration // each way
}

func (l *fakeConn) Read(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := l.transmit(ctx); err != nil {
		return nil, 0, err
	}
	l.mu.Lock()
	e := l.docs[key]
	l.mu.Unlock()
	return []byte(e.text), e.revision, l.transmit(ctx)
}

func (l *fakeConn) Write(ctx context.Context, key string, text []byte, revision uint64) error {
	if err := l.transmit(ctx); err != nil {
		return err
	}
	if err := l.compareAndSet(key, text, revision); err != nil {
		return err
	}
	l.mu.Lock()
	deaf := l.loseResponses
	l.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.transmit(ctx)
}

func (l *fakeConn) compareAndSet(key string, text []byte, revision uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.docs[key].revision != revision {
		return quotalease.ErrChanged
	}
	if l.docs == nil {
		l.docs = map[string]entry{}
	}
	l.revision++
	l.docs[key] = entry{string(text), l.revision}
	return nil
}

// transmit takes its time, also when the asker has given up: what is on its way arrives.
func (l *fakeConn) transmit(ctx context.Context) error {
	l.mu.Lock()
	lost, latency := l.cut || l.down, l.latency
	l.mu.Unlock()
	if lost {
		<-ctx.Done()
		return errUnreachable
	}
	time.Sleep(latency)
	return nil
}

// fakeLimiter is a gate that only knows what it may spend.
type fakeLimiter struct {
	mu       sync.Mutex
	demand   map[string]float64
	shares   map[string]float64
	expires  time.Time
	fallback float64
	killed   bool
}

func (s *fakeLimiter) Demand() map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.demand
}

func (s *fakeLimiter) SetShare(parts map[string]float64, until time.Time, rest float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shares, s.expires, s.fallback = parts, until, rest
}

func (s *fakeLimiter) setDemand(amount float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.demand = map[string]float64{"total": amount}
}

// share is what it may spend now.
func (s *fakeLimiter) share() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch part, leased := s.shares["total"]; {
	case s.killed:
		return 0
	case leased && time.Now().Before(s.expires):
		return part
	default:
		return s.fallback
	}
}

// testMember is a gateway as far as sharing goes.
type testMember struct {
	*quotalease.Member
	limiter *fakeLimiter
	conn    *fakeConn
	stop    context.CancelFunc
	done    chan struct{}
}

var joined int

// join has another member join, which wants so much.
func (c *fakeCluster) join(cfg quotalease.Config, wants float64) *testMember {
	joined++
	m := &testMember{limiter: &fakeLimiter{}, conn: &fakeConn{fakeCluster: c, latency: time.Millisecond}, done: make(chan struct{})}
	m.limiter.setDemand(wants)
	cfg.ID, cfg.Store = fmt.Sprint("member", joined), m.conn
	m.Member = quotalease.New(cfg)
	m.SetLimiters(map[string]quotalease.RateLimiter{"project": m.limiter})
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	go func() {
		defer close(m.done)
		_ = m.Run(ctx)
	}()
	return m
}

// leave ends the member as it should.
func (m *testMember) leave() {
	m.stop()
	<-m.done
}

// kill ends it without a farewell.
func (m *testMember) kill() {
	m.conn.mu.Lock()
	m.conn.cut = true
	m.conn.mu.Unlock()
	m.limiter.mu.Lock()
	m.limiter.killed = true
	m.limiter.mu.Unlock()
	m.leave()
}

func (m *testMember) setConn(cut, deaf bool) {
	m.conn.mu.Lock()
	defer m.conn.mu.Unlock()
	m.conn.cut, m.conn.loseResponses = cut, deaf
}

func (c *fakeCluster) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

func totalShare(members ...*testMember) (sum float64) {
	for _, m := range members {
		sum += m.limiter.share()
	}
	return sum
}

// expectShare fails the test unless the member may spend about that part.
func expectShare(t *testing.T, what string, m *testMember, want float64) {
	t.Helper()
	if got := m.limiter.share(); got < want-0.02 || got > want+0.02 {
		t.Errorf("%s: the part is %.4f, want about %.2f", what, got, want)
	}
}
