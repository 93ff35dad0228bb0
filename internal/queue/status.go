// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/push"
)

// Depth is how many notifications of an app wait in a lane, those on hand included.
type Depth struct {
	App   string    `json:"app"`
	Lane  push.Lane `json:"lane"`
	Tasks int       `json:"tasks"`
}

// Status is how the queue stands.
type Status struct {
	// Waiting is what is due, by app and lane.
	Waiting []Depth `json:"waiting"`
	// Bytes is what is due and LaterBytes what is scheduled or put back, on disk; each is bounded by MaxBytes.
	Bytes      uint64 `json:"bytes"`
	LaterBytes uint64 `json:"later_bytes"`
	MaxBytes   int64  `json:"max_bytes"`
}

// depth counts what is due, by source.
func (q *Queue) depth(ctx context.Context) (map[partition]int, error) {
	depth := map[partition]int{}
	for stream, subjects := range map[*streamHandle]string{q.tasks: taskSubjects, q.scheduled: dueSubjects} {
		info, err := stream.stream.Info(ctx, natsjs.WithSubjectFilter(subjects+">"))
		if err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		for subject, chunks := range info.State.Subjects {
			if s, tasks, ok := parseSubject(info.Config.Name, subject); ok {
				depth[s] += tasks * int(chunks)
			}
		}
	}
	return depth, nil
}

// cachedSize is that of a stream, as it was a moment ago.
type cachedSize struct {
	mu    sync.Mutex
	bytes uint64
	at    time.Time
}

// sizeMaxAge is how old a size may be.
const sizeMaxAge = time.Second

// scheduledBytes is about how much is scheduled and put back. While that cannot be learned it is what it was.
func (q *Queue) scheduledBytes(ctx context.Context) int64 {
	q.scheduledSize.mu.Lock()
	stale := time.Since(q.scheduledSize.at) > sizeMaxAge
	if stale {
		q.scheduledSize.at = time.Now() // the others go on with what is known
	}
	known := q.scheduledSize.bytes
	q.scheduledSize.mu.Unlock()
	if !stale {
		return int64(known)
	}
	info, err := q.scheduled.stream.Info(ctx)
	if err != nil {
		return int64(known)
	}
	q.scheduledSize.mu.Lock()
	defer q.scheduledSize.mu.Unlock()
	q.scheduledSize.bytes = info.State.Bytes
	return int64(info.State.Bytes)
}

// Status asks the engine how the queue stands.
func (q *Queue) Status(ctx context.Context) (Status, error) {
	s := Status{MaxBytes: q.cfg.MaxBytes}
	depth, err := q.depth(ctx)
	if err != nil {
		return s, err
	}
	for source, tasks := range depth {
		s.addDepth(Depth{App: source.app, Lane: source.lane, Tasks: tasks})
	}
	slices.SortFunc(s.Waiting, func(a, b Depth) int { return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Lane, b.Lane)) })
	s.Bytes, s.LaterBytes = q.tasks.stream.CachedInfo().State.Bytes, q.scheduled.stream.CachedInfo().State.Bytes
	return s, nil
}

// addDepth adds what is due of one source: what was put back is in another stream.
func (s *Status) addDepth(d Depth) {
	for i := range s.Waiting {
		if w := &s.Waiting[i]; w.App == d.App && w.Lane == d.Lane {
			w.Tasks += d.Tasks
			return
		}
	}
	s.Waiting = append(s.Waiting, d)
}

// Ready returns why nothing can be accepted at the moment, or nil.
func (q *Queue) Ready() error { return q.cfg.Engine.Ready() }
