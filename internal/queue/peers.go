// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// aliveSubject is the subject on which each gateway of a cluster says that it is alive. The messages are
// not stored. What they say decides only which gateway sends a task first: the order of the log decides
// which one may.
const aliveSubject = "sluice.alive"

// drainingSuffix follows the name of a gateway that drains.
const drainingSuffix = " draining"

// heartbeats is how often a gateway says that it is alive within Config.LostAfter.
const heartbeats = 6

// peer is a gateway that sends tasks.
type peer struct {
	name string
	hash uint64
}

func newPeer(name string) peer {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // always succeeds
	return peer{name, h.Sum64()}
}

// picks reports whether this gateway is the one among the peers that handles what is at a sequence, for
// instance the tasks of a writer that is lost. except is left out, if it is not nil.
func (t *table) picks(seq uint64, except *writer) bool {
	var picked *peer
	var highest uint64
	for i := range t.peers {
		p := &t.peers[i]
		if except != nil && p.name == except.name {
			continue
		}
		score := (p.hash ^ seq) * 0x9e3779b97f4a7c15
		if score ^= score >> 32; picked == nil || score > highest {
			picked, highest = p, score
		}
	}
	return picked == nil || picked.name == t.self.name
}

// setPeers sets which gateways are alive, and divides the tasks of those that are not. lost and settled say
// that of writers. It returns the flows that may have more tasks for this gateway.
func (t *table) setPeers(peers []peer, lost, settled func(name string) bool) (woken []*flow) {
	changed := !slices.Equal(peers, t.peers)
	t.peers = peers
	resume := false
	for name, w := range t.writers {
		if w.own {
			resume = resume || w != t.self && w.sending > 0
			continue
		}
		changed = changed || w.lost != lost(name)
		w.lost, w.settled = lost(name), settled(name)
		resume = resume || w.settled && w.sending > 0
	}
	if changed {
		t.divide()
	}
	t.overdue = slices.DeleteFunc(t.overdue, func(task jetstream.Offset) bool {
		f := t.find(task)
		if f == nil || !f.has(isReady, task.Index) {
			return true
		}
		if f.writer == nil || !f.writer.lost || !t.picks(task.Seq, nil) {
			return false
		}
		woken = t.deliverDue(f, task, woken)
		return true
	})
	if resume {
		t.resume()
	}
	for _, fl := range t.flows {
		if len(fl.due) > 0 || len(fl.others) > 0 {
			woken = append(woken, fl)
		}
	}
	return woken
}

// divide sets backlog.mine.
func (t *table) divide() {
	for _, fl := range t.flows {
		fl.others = slices.DeleteFunc(fl.others, func(b *backlog) bool { return b.writer.lost && b.ready == 0 })
		for _, b := range fl.others {
			b.mine = nil
			for _, f := range b.frames {
				if b.writer.lost && t.picks(f.seq, nil) {
					b.mine = append(b.mine, f)
				}
			}
		}
	}
}

// interrupted returns the synchronous sends of processes that have ended. Of those of another gateway,
// each is returned by one of the others.
func (t *table) interrupted() (ids []string) {
	for id, w := range t.calls {
		if t.isDead(w) && (w == nil || w.own || t.picks(uint64(id[15]), nil)) {
			ids = append(ids, id.String())
		}
	}
	return ids
}

// runPeers tells the other gateways of a cluster that this one is alive, and takes over the tasks of those
// that are not, until ctx ends.
func (q *Queue) runPeers(ctx context.Context) error {
	conn := q.cfg.Engine.JetStream().Conn()
	type sign struct {
		at       time.Time
		draining bool
	}
	heard, started := map[string]sign{}, time.Now()
	signs := make(chan *nats.Msg, 256)
	subscription, err := conn.ChanSubscribe(aliveSubject, signs)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	silence := func(name string) time.Duration {
		if s, ok := heard[name]; ok {
			return time.Since(s.at)
		}
		return time.Since(started)
	}
	ticker := time.NewTicker(q.cfg.LostAfter / heartbeats)
	defer ticker.Stop()
	draining := q.draining
	for {
		select {
		case m := <-signs:
			name, drains := strings.CutSuffix(string(m.Data), drainingSuffix)
			known := heard[name]
			heard[name] = sign{time.Now(), drains}
			if drains == known.draining && !known.at.IsZero() {
				continue
			}
		case <-ticker.C:
			q.sayAlive(conn)
		case <-draining:
			draining = nil
			q.sayAlive(conn)
		case <-ctx.Done():
			return nil
		}
		var peers []peer
		if !q.isDraining() {
			peers = append(peers, newPeer(q.cfg.Log.Writer()))
		}
		for name, s := range heard {
			switch {
			case name == q.cfg.Log.Writer():
			case silence(name) > q.cfg.SettleTime+q.cfg.LostAfter:
				delete(heard, name)
			case !s.draining && silence(name) <= q.cfg.LostAfter:
				peers = append(peers, newPeer(name))
			}
		}
		slices.SortFunc(peers, func(a, b peer) int { return strings.Compare(a.name, b.name) })
		q.takeOver(ctx, peers, func(name string) bool {
			return heard[name].draining || silence(name) > q.cfg.LostAfter
		}, func(name string) bool { return silence(name) > q.cfg.SettleTime })
	}
}

// sayAlive publishes that this gateway is alive. If that fails, others may take over its tasks. They also do
// that if the log is closed, because this gateway cannot record what it sends any more.
func (q *Queue) sayAlive(conn *nats.Conn) {
	if q.cfg.Log.Err() != nil {
		return
	}
	text := q.cfg.Log.Writer()
	if q.isDraining() {
		text += drainingSuffix
	}
	_ = conn.Publish(aliveSubject, []byte(text))
}

// takeOver is setPeers with the lock. It also ends the synchronous sends of gateways that have died.
func (q *Queue) takeOver(ctx context.Context, peers []peer, lost, settled func(name string) bool) {
	q.mu.Lock()
	for _, fl := range q.table.setPeers(peers, lost, settled) {
		q.startRuns(fl)
	}
	interrupted := q.table.interrupted()
	q.mu.Unlock()
	if len(interrupted) == 0 || q.isDraining() {
		return
	}
	if err := q.cfg.endAllMissing(ctx, interrupted); err != nil && ctx.Err() == nil {
		q.cfg.Logger.Warn("cannot end interrupted sends; retrying", "err", err)
	}
}
