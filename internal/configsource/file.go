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

// File is a configuration in a file. It watches the folder instead of the file, because most
// programs replace a file rather than write to it, and Kubernetes replaces a symbolic link in the
// folder.
type File struct {
	path    string
	sighup  chan os.Signal
	watcher *fsnotify.Watcher // nil if the system does not support watching
}

// OpenFile starts watching the folder of a file and catching SIGHUP, which would otherwise end the
// process. Run stops both when it returns.
func OpenFile(path string) *File {
	f := &File{path: path, sighup: make(chan os.Signal, 1)}
	signal.Notify(f.sighup, syscall.SIGHUP)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return f
	}
	_ = watcher.Add(filepath.Dir(path)) // Read returns the error if the folder does not exist
	f.watcher = watcher
	return f
}

// Name returns the file's path.
func (f *File) Name() string { return f.path }

// Read reads the file.
func (f *File) Read(context.Context) ([]byte, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return text, nil
}

// LastCommitted returns nil, because a File keeps no copy.
func (f *File) LastCommitted() []byte { return nil }

// Commit also watches the folders of files. It ignores folders that cannot be watched: SIGHUP
// reports their changes.
func (f *File) Commit(_ []byte, files []string) error {
	for _, file := range files {
		if f.watcher != nil {
			_ = f.watcher.Add(filepath.Dir(file))
		}
	}
	return nil
}

// Run reports every change in the folders and every SIGHUP. It always returns nil.
func (f *File) Run(ctx context.Context, changed chan<- struct{}) error {
	defer close(changed)
	defer signal.Stop(f.sighup)
	var events chan fsnotify.Event
	var errs chan error
	if f.watcher != nil {
		defer func() { _ = f.watcher.Close() }()
		events, errs = f.watcher.Events, f.watcher.Errors
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
		case err := <-errs:
			if err != nil { // events may have been lost
				settled.Reset(settleTime)
			}
		case <-settled.C:
			notify(ctx, changed)
		}
	}
}
