// SPDX-License-Identifier: Apache-2.0

// Package configsource reads a configuration from a file or from a key of a NATS cluster, and
// reports when it may have changed. It does not parse the configuration.
package configsource

import "context"

// Source is a place that a configuration is read from.
type Source interface {
	// Name is the name of the configuration in errors. Relative paths in the configuration start at
	// its folder.
	Name() string
	// Read returns the current configuration. If it is not available, Read returns the last
	// committed one or an error.
	Read(ctx context.Context) ([]byte, error)
	// Commit records that text is the configuration in use, and which files it refers to.
	Commit(text []byte, files []string) error
	// LastCommitted returns the last committed configuration, or nil if none is known.
	LastCommitted() []byte
	// Run sends to changed when the configuration or a file that it refers to may have changed, on
	// SIGHUP, and once at the start. When ctx ends it closes changed and returns.
	Run(ctx context.Context, changed chan<- struct{}) error
}

var (
	_ Source = (*File)(nil)
	_ Source = (*NATS)(nil)
)

// notify sends to changed, unless ctx ends first.
func notify(ctx context.Context, changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	case <-ctx.Done():
	}
}
