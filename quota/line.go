// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// tick is the least time between two handouts: at 10,000 a second a timer for
// each place would cost more than the places.
const tick = time.Millisecond

// line is a scope that is waited for, with those who wait: the better lane
// first, and within a lane the apps by their weights. Whoever comes while
// nobody waits in his lane or a better one takes a place at once, so what one
// app leaves is lent to the others, and taken back with the next place.
type line struct {
	mu      sync.Mutex
	weights map[string]int
	pace    governor
	turned  meter // those who were turned away
	lanes   [3]lane
	waiting int
	timer   *time.Timer
	armed   bool
}

// lane holds those who wait in one lane, app by app. Each place moves its app
// on by the inverse of its weight, and the app that is farthest behind is next
// (stride scheduling; Waldspurger and Weihl, 1995).
type lane struct {
	apps    map[string]*sender
	moved   float64 // how far the app was that had the last place
	waiting int
}

type sender struct {
	stride  float64
	pass    float64
	turns   []*Turn // in order; those who have left are passed over
	waiting int
}

// rank is a lane's place: the lower goes first.
func rank(n *push.Notification) int {
	switch n.EffectiveLane() {
	case push.LaneCritical:
		return 0
	case push.LaneBulk:
		return 2
	default:
		return 1
	}
}

// open lets n through if that can be at once.
func (l *line) open(n *push.Notification) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 && l.better(rank(n)) > 0 {
		return false
	}
	return l.pace.take(time.Now())
}

// better counts those who wait in this lane and the better ones. l.mu is held.
func (l *line) better(rank int) (count int) {
	for i := range rank + 1 {
		count += l.lanes[i].waiting
	}
	return count
}

// enter puts t in line, or lets it through at once, or says how long it would
// have to wait if that is longer than it can.
func (l *line) enter(t *Turn) (wait time.Duration, queued, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	ahead := l.ahead(t)
	if ahead == 0 && l.pace.take(now) {
		return 0, false, true
	}
	if wait = l.pace.wait(now, ahead+1); now.Add(wait).After(t.deadline) {
		l.turned.count(now)
		return wait, false, false
	}
	l.push(t)
	l.arm(now)
	return wait, true, true
}

// ahead counts those who will go before t: everybody in the better lanes, and
// of each app in its own what its weight gives it meanwhile. l.mu is held.
func (l *line) ahead(t *Turn) int {
	if l.waiting == 0 {
		return 0
	}
	lane := &l.lanes[t.rank]
	own := lane.sender(t.app, l.weights)
	count := l.better(t.rank) - lane.waiting + own.waiting
	for _, s := range lane.apps {
		if s != own {
			count += min(s.waiting, int(float64(own.waiting+1)*own.stride/s.stride))
		}
	}
	return count
}

// push puts t in line. l.mu is held.
func (l *line) push(t *Turn) {
	lane := &l.lanes[t.rank]
	s := lane.sender(t.app, l.weights)
	if s.waiting == 0 {
		s.pass = max(s.pass, lane.moved)
	}
	t.gone = false
	s.turns = append(s.turns, t)
	s.waiting++
	lane.waiting++
	l.waiting++
}

func (l *lane) sender(app string, weights map[string]int) *sender {
	s, ok := l.apps[app]
	if !ok {
		if l.apps == nil {
			l.apps = make(map[string]*sender)
		}
		s = &sender{stride: stride(weights, app), pass: l.moved}
		l.apps[app] = s
	}
	return s
}

func stride(weights map[string]int, app string) float64 { return 1 / float64(max(weights[app], 1)) }

// pop takes the next one out of line, nil if nobody waits. l.mu is held.
func (l *line) pop() *Turn {
	for i := range l.lanes {
		lane := &l.lanes[i]
		if lane.waiting == 0 {
			continue
		}
		s := lane.next()
		lane.moved = s.pass
		s.pass += s.stride
		return l.leaves(lane, s, s.head())
	}
	return nil
}

// next returns the app that is farthest behind of those with somebody waiting.
func (l *lane) next() (next *sender) {
	for _, s := range l.apps {
		if s.waiting > 0 && (next == nil || s.pass < next.pass) {
			next = s
		}
	}
	return next
}

// head takes the first out of the app's queue that has not left it.
func (s *sender) head() *Turn {
	for {
		t := s.turns[0]
		s.turns[0] = nil
		if s.turns = s.turns[1:]; !t.gone {
			return t
		}
	}
}

func (l *line) leaves(lane *lane, s *sender, t *Turn) *Turn {
	t.gone = true
	s.waiting--
	lane.waiting--
	l.waiting--
	if s.waiting == 0 {
		s.turns = nil
	}
	return t
}

// forget takes t out of line.
func (l *line) forget(t *Turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !t.gone {
		l.leaves(&l.lanes[t.rank], l.lanes[t.rank].apps[t.app], t)
	}
}

// arm sets the timer for the next handout. l.mu is held.
func (l *line) arm(now time.Time) {
	if l.armed || l.waiting == 0 {
		return
	}
	l.armed = true
	wait := max(l.pace.wait(now, 1), tick)
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.handout)
		return
	}
	l.timer.Reset(wait)
}

// handout gives the places that have come up to those who are next.
func (l *line) handout() {
	for _, t := range l.served() {
		t.move()
	}
}

func (l *line) served() (turns []*Turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for l.waiting > 0 && l.pace.take(now) {
		turns = append(turns, l.pop())
	}
	l.armed = false
	l.arm(now)
	return turns
}

// close closes the line by how, one of the governor's two ways, and tells those at once who cannot wait that long.
func (l *line) close(how func(g *governor, now time.Time, wait time.Duration), wait time.Duration) {
	turns, left := l.closed(how, wait)
	for _, t := range turns {
		t.settle(left)
	}
}

func (l *line) closed(how func(*governor, time.Time, time.Duration), wait time.Duration) (evicted []*Turn, left time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	how(&l.pace, now, wait)
	left = l.pace.closed(now)
	for i := range l.lanes {
		for _, s := range l.lanes[i].apps {
			for _, t := range s.turns {
				if !t.gone && t.deadline.Before(now.Add(left)) {
					evicted = append(evicted, l.leaves(&l.lanes[i], s, t))
				}
			}
		}
	}
	return evicted, left
}

// shut returns how long the line stays closed.
func (l *line) shut() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pace.closed(time.Now())
}

// status returns the line's state now.
func (l *line) status(name string) ScopeStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.pace.filled(now, now)
	return ScopeStatus{
		Name: name, Limit: l.pace.limit.Rate, Rate: l.pace.rate(now) * l.pace.spends(), Share: l.pace.spends(), ClosedFor: l.pace.closed(now).Seconds(),
		Waiting: Waiting{Critical: l.lanes[0].waiting, Normal: l.lanes[1].waiting, Bulk: l.lanes[2].waiting},
	}
}
