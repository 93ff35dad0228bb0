// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"slices"
	"sync"
)

// cachedMessages is the number of messages in a messageCache, each up to about a megabyte.
const cachedMessages = 16

// messageCache keeps the messages that were read last: the tasks of a message are usually sent one
// after the other. Calls for a message that is being read share the result.
type messageCache struct {
	read func(ctx context.Context, seq uint64) (*Message, error)

	mu     sync.Mutex
	recent []*cachedMessage // the last one used is the last
}

type cachedMessage struct {
	seq  uint64
	done chan struct{} // closed when m or err is set
	m    *Message
	err  error
}

func newMessageCache(read func(ctx context.Context, seq uint64) (*Message, error)) *messageCache {
	return &messageCache{read: read}
}

// add adds a message that was just stored.
func (c *messageCache) add(m *Message) {
	e := &cachedMessage{seq: m.Seq, done: make(chan struct{}), m: m}
	close(e.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insert(e)
}

// insert inserts a message as the last one used. The caller holds c.mu.
func (c *messageCache) insert(e *cachedMessage) {
	if len(c.recent) == cachedMessages {
		c.recent = slices.Delete(c.recent, 0, 1)
	}
	c.recent = append(c.recent, e)
}

func (c *messageCache) get(ctx context.Context, seq uint64) (*Message, error) {
	c.mu.Lock()
	i := slices.IndexFunc(c.recent, func(e *cachedMessage) bool { return e.seq == seq })
	if i >= 0 {
		e := c.recent[i]
		c.recent = append(slices.Delete(c.recent, i, i+1), e)
		c.mu.Unlock()
		select {
		case <-e.done:
			return e.m, e.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e := &cachedMessage{seq: seq, done: make(chan struct{})}
	c.insert(e)
	c.mu.Unlock()
	e.m, e.err = c.read(context.WithoutCancel(ctx), seq)
	close(e.done)
	if e.err != nil {
		c.mu.Lock()
		c.recent = slices.DeleteFunc(c.recent, func(other *cachedMessage) bool { return other == e })
		c.mu.Unlock()
	}
	return e.m, e.err
}
