// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// EnvironmentCache stores the tokens that were found in the other environment and those that
// neither environment knows. Concurrent sends to a token share one detection: the first detects,
// and the others wait for its result. A burst to one token therefore costs one rejection.
type EnvironmentCache struct {
	// TTL is the lifetime of an entry; default 24h.
	TTL time.Duration
	// MaxEntries is the maximum number of entries, about 200 bytes each; default 100000. The oldest
	// is evicted.
	MaxEntries int

	cache tokenCache[push.Environment]

	mu    sync.Mutex
	calls map[uint64]*call
}

// call is a detection in progress. environment is set before done is closed.
type call struct {
	done        chan struct{}
	environment push.Environment // "" if the detection was inconclusive
}

// get returns the environment of a token. If a detection is in progress, get waits for it. If env
// is "", the caller must detect the environment itself and then call finish with leader; leader
// means that others wait for the result. A caller whose wait ended without a result does not wait
// again: if the provider is failing, callers would otherwise wait for each other in turn.
func (c *EnvironmentCache) get(ctx context.Context, key uint64) (env push.Environment, leader bool) {
	c.mu.Lock()
	env, known := c.cache.get(key, cmp.Or(c.TTL, 24*time.Hour))
	current, inProgress := c.calls[key]
	if leader = !known && !inProgress; leader {
		if c.calls == nil {
			c.calls = make(map[uint64]*call)
		}
		c.calls[key] = &call{done: make(chan struct{})}
	}
	c.mu.Unlock()
	if known || leader {
		return env, leader
	}
	select {
	case <-current.done:
		return current.environment, false
	case <-ctx.Done():
		return "", false
	}
}

// finish stores the result of a detection and releases the waiters. With store false the result is
// not stored: the default environment of a token needs no entry. leader is the result of get.
func (c *EnvironmentCache) finish(key uint64, env push.Environment, store, leader bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if env != "" && store {
		c.cache.put(key, env, cmp.Or(c.MaxEntries, 100_000))
	}
	if leader {
		current := c.calls[key]
		delete(c.calls, key)
		current.environment = env
		close(current.done)
	}
}
