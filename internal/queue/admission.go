// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

const (
	// The size of a message in a stream, without its body: at most 64 bytes of an app's name twice,
	// headers, and the record of the server.
	messageOverhead = 512
	// How long the size of a stream is used before it is read again, and how long one read may take.
	sizeMaxAge      = time.Second
	sizeReadTimeout = 2 * time.Second
)

// usage is an upper bound of the size of a stream.
type usage struct {
	mu     sync.Mutex
	bytes  int64 // when it was read, plus what was written since
	active int64 // of writes in progress
	readAt time.Time
}

// reserve reserves bytes for a write unless the stream would exceed limit. The caller calls done
// after the write.
func (s *streamHandle) reserve(ctx context.Context, bytes, limit int64) (done func(), ok bool) {
	u := &s.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.readAt) > sizeMaxAge || u.bytes+u.active+bytes > limit {
		s.readSize(ctx)
	}
	if u.bytes+u.active+bytes > limit {
		return nil, false
	}
	u.active += bytes
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.active, u.bytes = u.active-bytes, u.bytes+bytes
	}, true
}

// readSize reads the size of the stream. If it cannot be read, the last known one stays. The caller
// holds s.usage.mu.
func (s *streamHandle) readSize(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sizeReadTimeout)
	defer cancel()
	if info, err := s.stream.Info(ctx); err == nil {
		s.usage.bytes = int64(info.State.Bytes)
	}
	s.usage.readAt = time.Now()
}

// Ready returns why no notification can be accepted now, or nil.
func (q *clusterQueue) Ready() error { return q.admitBytes(context.Background(), 0) }

// admitBytes returns why tasks of this size cannot be accepted now, or nil.
func (q *clusterQueue) admitBytes(ctx context.Context, bytes int64) error {
	if !q.cfg.Engine.Embedded() {
		return q.cfg.Engine.Writable()
	}
	return q.cfg.Engine.Admit(q.committed(bytes + q.tasks.used(ctx) + q.scheduled.used(ctx)))
}

// perTask is what a task writes until its end, besides copies of itself: the events of an attempt and
// of the end, and their share of the index. Keys and further attempts need more than the average of
// 1.3 KiB.
const perTask = 2 << 10

// committed estimates how many bytes tasks with this total size will still write: perTask for each, and
// a copy when it is due or rescheduled.
func (q *clusterQueue) committed(bytes int64) int64 { return bytes + bytes/q.averageSize()*perTask }

// averageSize returns the average size of a task.
func (q *clusterQueue) averageSize() int64 {
	const assumed = 400 // before any task is known
	count := q.seenTasks.Load()
	return (q.seenBytes.Load() + assumed) / (count + 1)
}

// see counts tasks for averageSize.
func (q *clusterQueue) see(tasks, bytes int) {
	q.seenTasks.Add(int64(tasks))
	q.seenBytes.Add(int64(bytes))
}

// used returns an upper bound of the size of the stream.
func (s *streamHandle) used(ctx context.Context) int64 {
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	if time.Since(s.usage.readAt) > sizeMaxAge {
		s.readSize(ctx)
	}
	return s.usage.bytes + s.usage.active
}

// admit reserves space for the tasks of the groups. It removes the groups for which there is no space
// and sets their errors. The caller calls done when all groups are written.
func (q *clusterQueue) admit(ctx context.Context, groups map[destination]*group, errs []error) (done func()) {
	var reservations []func()
	for d, g := range groups {
		err := q.admitBytes(ctx, g.size())
		if errors.Is(err, jetstream.ErrFull) {
			err = fmt.Errorf("%w: %w", push.ErrQueueFull, err)
		}
		if err == nil {
			release, ok := q.handle(d.partition).reserve(ctx, g.size(), q.cfg.MaxBytes)
			if ok {
				for _, data := range g.encoded {
					q.see(1, len(data))
				}
				reservations = append(reservations, release)
				continue
			}
			err = fmt.Errorf("%w: %s exceeds %d bytes", push.ErrQueueFull, d.stream, q.cfg.MaxBytes)
		}
		delete(groups, d)
		for _, i := range g.index {
			errs[i] = err
		}
	}
	return func() {
		for _, release := range reservations {
			release()
		}
	}
}

// size returns an upper bound of the bytes that the group adds to its stream.
func (g *group) size() (bytes int64) {
	for _, data := range g.encoded {
		bytes += int64(len(data)) + 1
	}
	return bytes + int64(1+len(g.encoded)/50)*messageOverhead
}
