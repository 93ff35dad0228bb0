// SPDX-License-Identifier: Apache-2.0

// Package source knows where a configuration stands, in a file or under a key of a NATS cluster, and tells when it may
// have changed. It understands nothing of what stands there.
package configsource

import (
	"context"
	"time"
)

// Source is a place where a configuration stands. File and Key are two.
type Source interface {
	// Name is how errors call it; relative paths in the configuration start at its folder.
	Name() string
	// Read returns what stands there now, or the last that was good.
	Read(ctx context.Context) ([]byte, error)
	// Keep is told each text that is in force, and the files that belong to it.
	Commit(text []byte, files []string) error
	// Last returns what was in force before this process began, nil where none is known.
	LastCommitted() []byte
	// Run tells on changed that something may have changed, also once at first, until ctx ends; then it closes changed.
	Run(ctx context.Context, changed chan<- struct{}) error
}

var (
	_ Source = (*File)(nil)
	_ Source = (*NATS)(nil)
)

// settleTime is how long there must be quiet before a change is told: who changes several files wants all of them to count,
// and an editor writes one in several steps.
const settleTime = 200 * time.Millisecond

// notify passes one word on, unless ctx ends first.
func notify(ctx context.Context, changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	case <-ctx.Done():
	}
}
