// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long files must be left alone before they are read: who changes several wants all of them to count, and
// an editor writes one in several steps.
const settle = 200 * time.Millisecond

// watch tells when files may have changed. It looks at their folders: most programs replace a file rather than write to
// it, and Kubernetes replaces a link beside it.
type watch struct {
	watcher *fsnotify.Watcher
	changed chan struct{}
}

func newWatch() (*watch, error) {
	watcher, err := fsnotify.NewWatcher()
	return &watch{watcher, make(chan struct{})}, err
}

// add has files watched too. A folder that cannot be is not worth failing for: there is SIGHUP.
func (w *watch) add(files ...string) {
	for _, file := range files {
		_ = w.watcher.Add(filepath.Dir(file))
	}
}

// run tells on changed when something happened in a folder, when SIGHUP came, and once at first, for something may have
// happened before. It closes changed when ctx ends.
func (w *watch) run(ctx context.Context) {
	defer close(w.changed)
	defer func() { _ = w.watcher.Close() }()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	settled := time.NewTimer(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			settled.Reset(0)
		case event := <-w.watcher.Events:
			if event.Op != fsnotify.Chmod {
				settled.Reset(settle)
			}
		case <-w.watcher.Errors: // an event was lost: look
			settled.Reset(settle)
		case <-settled.C:
			select {
			case w.changed <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}
}
