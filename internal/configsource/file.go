// SPDX-License-Identifier: Apache-2.0

package configsource

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// File is a configuration in a file.
type File struct {
	path    string
	watcher *watcher

	mu   sync.Mutex
	pipe []byte // the contents, if the file can be read only once
}

// OpenFile starts catching SIGHUP, which would otherwise end the process. Run stops it when it
// returns. A panic of Run is logged to log.
func OpenFile(path string, log *slog.Logger) *File {
	return &File{path: path, watcher: newWatcher(log, path)}
}

// Name returns the file's path.
func (f *File) Name() string { return f.path }

// Read reads the file. It reads a pipe, such as /dev/stdin, only once.
func (f *File) Read(context.Context) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pipe != nil {
		return f.pipe, nil
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if info, err := os.Stat(f.path); err == nil && !info.Mode().IsRegular() {
		f.pipe = text
	}
	return text, nil
}

// LastCommitted returns nil, because a File keeps no copy.
func (f *File) LastCommitted() []byte { return nil }

// Commit also watches files.
func (f *File) Commit(_ []byte, files []string) error {
	f.watcher.setFiles(append([]string{f.path}, files...))
	return nil
}

// Run reports every change of the files and every SIGHUP. It always returns nil.
func (f *File) Run(ctx context.Context, changed chan<- struct{}) error {
	defer close(changed)
	f.watcher.run(ctx, func() { notify(ctx, changed) })
	return nil
}
