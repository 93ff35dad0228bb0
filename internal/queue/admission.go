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
func (q *Queue) Ready() error { return q.cfg.Engine.Admit(q.committed()) }

// committed returns how many bytes the accepted tasks will still write.
func (q *Queue) committed() int64 { return 0 }

// admit reserves space for the tasks of the groups. It removes the groups for which there is no space
// and sets their errors. The caller calls done when all groups are written.
func (q *Queue) admit(ctx context.Context, groups map[destination]*group, errs []error) (done func()) {
	var reservations []func()
	for d, g := range groups {
		err := q.Ready()
		if errors.Is(err, jetstream.ErrFull) {
			err = fmt.Errorf("%w: %w", push.ErrQueueFull, err)
		}
		if err == nil {
			release, ok := q.handle(d.partition).reserve(ctx, g.size(), q.cfg.MaxBytes)
			if ok {
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
