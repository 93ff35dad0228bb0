// SPDX-License-Identifier: Apache-2.0

package share_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/share"
)

var errAway = errors.New("nobody answers")

// cluster keeps documents, and reaches its members over lines that can be cut.
type cluster struct {
	mu       sync.Mutex
	docs     map[string]entry
	revision uint64
	down     bool
}

type entry struct {
	text     string
	revision uint64
}

// lose forgets everything, as memory does.
func (c *cluster) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.docs, c.revision = nil, 0
}

// line is one member's way to the cluster.
type line struct {
	*cluster
	cut     bool          // nothing arrives
	deaf    bool          // what is written arrives, and its answer does not
	latency time.Duration // each way
}

func (l *line) Read(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := l.travel(ctx); err != nil {
		return nil, 0, err
	}
	l.mu.Lock()
	e := l.docs[key]
	l.mu.Unlock()
	return []byte(e.text), e.revision, l.travel(ctx)
}

func (l *line) Write(ctx context.Context, key string, text []byte, revision uint64) error {
	if err := l.travel(ctx); err != nil {
		return err
	}
	if err := l.put(key, text, revision); err != nil {
		return err
	}
	l.mu.Lock()
	deaf := l.deaf
	l.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.travel(ctx)
}

func (l *line) put(key string, text []byte, revision uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.docs[key].revision != revision {
		return share.ErrChanged
	}
	if l.docs == nil {
		l.docs = map[string]entry{}
	}
	l.revision++
	l.docs[key] = entry{string(text), l.revision}
	return nil
}

// travel takes its time, also when the asker has given up: what is on its way arrives.
func (l *line) travel(ctx context.Context) error {
	l.mu.Lock()
	lost, latency := l.cut || l.down, l.latency
	l.mu.Unlock()
	if lost {
		<-ctx.Done()
		return errAway
	}
	time.Sleep(latency)
	return nil
}

// spender is a gate that only knows what it may spend.
type spender struct {
	mu     sync.Mutex
	wants  map[string]float64
	parts  map[string]float64
	until  time.Time
	rest   float64
	killed bool
}

func (s *spender) Demand() map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wants
}

func (s *spender) Spend(parts map[string]float64, until time.Time, rest float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts, s.until, s.rest = parts, until, rest
}

func (s *spender) want(amount float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wants = map[string]float64{"total": amount}
}

// part is what it may spend now.
func (s *spender) part() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch part, leased := s.parts["total"]; {
	case s.killed:
		return 0
	case leased && time.Now().Before(s.until):
		return part
	default:
		return s.rest
	}
}

// member is a gateway as far as sharing goes.
type member struct {
	*share.Sharing
	spender *spender
	line    *line
	stop    context.CancelFunc
	ended   chan struct{}
}

var born int

// join has another member join, which wants so much.
func (c *cluster) join(cfg share.Config, wants float64) *member {
	born++
	m := &member{spender: &spender{}, line: &line{cluster: c, latency: time.Millisecond}, ended: make(chan struct{})}
	m.spender.want(wants)
	cfg.Member, cfg.Documents = fmt.Sprint("member", born), m.line
	m.Sharing = share.New(cfg)
	m.Hold(map[string]share.Gate{"project": m.spender})
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	go func() {
		defer close(m.ended)
		_ = m.Run(ctx)
	}()
	return m
}

// leave ends the member as it should.
func (m *member) leave() {
	m.stop()
	<-m.ended
}

// kill ends it without a farewell.
func (m *member) kill() {
	m.line.mu.Lock()
	m.line.cut = true
	m.line.mu.Unlock()
	m.spender.mu.Lock()
	m.spender.killed = true
	m.spender.mu.Unlock()
	m.leave()
}

func (m *member) set(cut, deaf bool) {
	m.line.mu.Lock()
	defer m.line.mu.Unlock()
	m.line.cut, m.line.deaf = cut, deaf
}

func (c *cluster) set(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

func sum(members ...*member) (sum float64) {
	for _, m := range members {
		sum += m.spender.part()
	}
	return sum
}

// about fails the test unless the member may spend about that part.
func about(t *testing.T, what string, m *member, want float64) {
	t.Helper()
	if got := m.spender.part(); got < want-0.02 || got > want+0.02 {
		t.Errorf("%s: the part is %.4f, want about %.2f", what, got, want)
	}
}
