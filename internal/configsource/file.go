// SPDX-License-Identifier: Apache-2.0

package configsource

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// File is a configuration in a file. It watches folders, and not files: most programs replace a file rather than write
// to it, and Kubernetes replaces a link beside it.
type File struct {
	path    string
	sighup  chan os.Signal
	watcher *fsnotify.Watcher // nil where the system has no way to watch
}

// OpenFile begins to watch the folder of a file, and to hear SIGHUP, which ends the process of who does not. Run ends that.
func OpenFile(path string) *File {
	f := &File{path: path, sighup: make(chan os.Signal, 1)}
	signal.Notify(f.sighup, syscall.SIGHUP)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return f
	}
	_ = watcher.Add(filepath.Dir(path)) // one that is not there is told by Read
	f.watcher = watcher
	return f
}

// Name is the file's path.
func (f *File) Name() string { return f.path }

// Read reads the file.
func (f *File) Read(context.Context) ([]byte, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return text, nil
}

// Last knows none: a file that was good yesterday is not kept beside it.
func (f *File) LastCommitted() []byte { return nil }

// Keep watches the folders of files too. One that cannot be watched is not worth failing for: there is SIGHUP.
func (f *File) Commit(_ []byte, files []string) error {
	for _, file := range files {
		if f.watcher != nil {
			_ = f.watcher.Add(filepath.Dir(file))
		}
	}
	return nil
}

// Run tells of whatever happens in the folders, and of SIGHUP. The error says that only SIGHUP is told.
func (f *File) Run(ctx context.Context, changed chan<- struct{}) error {
	defer close(changed)
	defer signal.Stop(f.sighup)
	var events chan fsnotify.Event
	var lost chan error
	if f.watcher != nil {
		defer func() { _ = f.watcher.Close() }()
		events, lost = f.watcher.Events, f.watcher.Errors
	}
	settled := time.NewTimer(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.sighup:
			settled.Reset(0)
		case event := <-events:
			if event.Op != fsnotify.Chmod {
				settled.Reset(settleTime)
			}
		case err := <-lost:
			if err != nil { // an event was: look
				settled.Reset(settleTime)
			}
		case <-settled.C:
			notify(ctx, changed)
		}
	}
}
