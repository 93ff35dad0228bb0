// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/push"
)

// Depth is the number of due tasks of an app and lane, including those in flight.
type Depth struct {
	App   string    `json:"app"`
	Lane  push.Lane `json:"lane"`
	Tasks int       `json:"tasks"`
}

// Status describes the queue, for GET /v1/status and for metrics.
type Status struct {
	// Waiting lists the due tasks by app and lane.
	Waiting []Depth `json:"waiting"`
	// Bytes is the size of the due tasks on disk, LaterBytes that of scheduled and rescheduled
	// ones. MaxBytes bounds each.
	Bytes      uint64 `json:"bytes"`
	LaterBytes uint64 `json:"later_bytes"`
	MaxBytes   int64  `json:"max_bytes"`
	// Oldest is when the oldest due task was stored; zero if none is due.
	Oldest time.Time `json:"-"`
}

// depth counts the due tasks of each partition.
func (q *clusterQueue) depth(ctx context.Context) (map[partition]int, error) {
	depth := map[partition]int{}
	for handle, subjects := range map[*streamHandle]string{q.tasks: taskSubjects, q.scheduled: dueSubjects} {
		info, err := handle.stream.Info(ctx, natsjs.WithSubjectFilter(subjects+">"))
		if err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		for subject, messages := range info.State.Subjects {
			if p, tasks, ok := parseSubject(info.Config.Name, subject); ok {
				depth[p] += tasks * int(messages)
			}
		}
	}
	return depth, nil
}

// Status reads the current status from the server.
func (q *clusterQueue) Status(ctx context.Context) (Status, error) {
	s := Status{MaxBytes: q.cfg.MaxBytes}
	depth, err := q.depth(ctx)
	if err != nil {
		return s, err
	}
	for p, tasks := range depth {
		s.addDepth(Depth{App: p.app, Lane: p.lane, Tasks: tasks})
	}
	slices.SortFunc(s.Waiting, func(a, b Depth) int { return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Lane, b.Lane)) })
	if due := q.tasks.stream.CachedInfo().State; due.Msgs > 0 {
		s.Oldest = due.FirstTime
	}
	s.Bytes, s.LaterBytes = q.tasks.stream.CachedInfo().State.Bytes, q.scheduled.stream.CachedInfo().State.Bytes
	return s, nil
}

// OldestTask returns when the oldest message of the queue was stored, or the zero time if there is none.
func (q *clusterQueue) OldestTask(ctx context.Context) (oldest time.Time, err error) {
	for _, handle := range []*streamHandle{q.tasks, q.scheduled} {
		info, err := handle.stream.Info(ctx)
		if err != nil {
			return oldest, fmt.Errorf("queue: %w", err)
		}
		if first := info.State.FirstTime; info.State.Msgs > 0 && (oldest.IsZero() || first.Before(oldest)) {
			oldest = first
		}
	}
	return oldest, nil
}

// addDepth adds the depth of one partition. Due and rescheduled tasks of one app and lane are in
// two streams.
func (s *Status) addDepth(d Depth) {
	for i := range s.Waiting {
		if w := &s.Waiting[i]; w.App == d.App && w.Lane == d.Lane {
			w.Tasks += d.Tasks
			return
		}
	}
	s.Waiting = append(s.Waiting, d)
}
