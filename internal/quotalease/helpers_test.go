// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/quotalease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errUnreachable = errors.New("cluster unreachable")

// fakeCluster is a store whose members connect to it with a fakeConn.
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

// loseAll deletes all documents, like a restart of a store in memory.
func (c *fakeCluster) loseAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.docs, c.revision = nil, 0
}

// fakeConn is one member's connection to the cluster.
type fakeConn struct {
	*fakeCluster
	cut           bool          // no request arrives
	loseResponses bool          // writes arrive, but their responses do not
	latency       time.Duration // each way
}

func (l *fakeConn) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := l.transmit(ctx); err != nil {
		return nil, 0, err
	}
	l.mu.Lock()
	e := l.docs[key]
	l.mu.Unlock()
	return []byte(e.text), e.revision, l.transmit(ctx)
}

func (l *fakeConn) CompareAndSet(ctx context.Context, key string, text []byte, revision uint64) (uint64, error) {
	if err := l.transmit(ctx); err != nil {
		return 0, err
	}
	written, err := l.compareAndSet(key, text, revision)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	lost := l.loseResponses
	l.mu.Unlock()
	if lost {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return written, l.transmit(ctx)
}

func (l *fakeConn) compareAndSet(key string, text []byte, revision uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.docs[key].revision != revision {
		return 0, jetstream.ErrChanged
	}
	if l.docs == nil {
		l.docs = map[string]entry{}
	}
	l.revision++
	l.docs[key] = entry{string(text), l.revision}
	return l.revision, nil
}

// transmit waits for the latency even if ctx has ended, because a message that was sent still
// arrives.
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

// fakeLimiter is a rate limiter that only records its shares.
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

func (s *fakeLimiter) SetShare(shares map[string]float64, until time.Time, fallback float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shares, s.expires, s.fallback = shares, until, fallback
}

func (s *fakeLimiter) setDemand(amount float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.demand = map[string]float64{"total": amount}
}

// share returns the share that may be used now.
func (s *fakeLimiter) share() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch share, leased := s.shares["total"]; {
	case s.killed:
		return 0
	case leased && time.Now().Before(s.expires):
		return share
	default:
		return s.fallback
	}
}

// testMember is a running member with its limiter and connection.
type testMember struct {
	*quotalease.Member
	limiter *fakeLimiter
	conn    *fakeConn
	stop    context.CancelFunc
	done    chan struct{}
}

var joined int // members so far, for unique IDs

// join starts another member with the given demand.
func (c *fakeCluster) join(cfg quotalease.Config, demand float64) *testMember {
	joined++
	m := &testMember{limiter: &fakeLimiter{}, conn: &fakeConn{fakeCluster: c, latency: time.Millisecond}, done: make(chan struct{})}
	m.limiter.setDemand(demand)
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

// leave stops the member gracefully.
func (m *testMember) leave() {
	m.stop()
	<-m.done // bounded by the bubble
}

// kill stops the member without releasing its leases.
func (m *testMember) kill() {
	m.conn.mu.Lock()
	m.conn.cut = true
	m.conn.mu.Unlock()
	m.limiter.mu.Lock()
	m.limiter.killed = true
	m.limiter.mu.Unlock()
	m.leave()
}

func (m *testMember) setConn(cut, loseResponses bool) {
	m.conn.mu.Lock()
	defer m.conn.mu.Unlock()
	m.conn.cut, m.conn.loseResponses = cut, loseResponses
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

// expectShare fails the test unless the member's share is about want.
func expectShare(t *testing.T, what string, m *testMember, want float64) {
	t.Helper()
	if got := m.limiter.share(); got < want-0.02 || got > want+0.02 {
		t.Errorf("%s: the share is %.4f, want about %.2f", what, got, want)
	}
}
