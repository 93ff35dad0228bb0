// SPDX-License-Identifier: Apache-2.0

package configsource

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-push/sluice/internal/panics"
)

const (
	// pollInterval is the time between two looks at the files. A change is reported after two equal
	// looks: programs write a file in several steps, and a change of several files should be read as
	// one.
	pollInterval = 200 * time.Millisecond
	// pollCost limits the part of a core that looking at many files uses, to 1/pollCost.
	pollCost = 100
)

// watcher reports changes of files, and SIGHUP, which would otherwise end the process. It compares
// what os.Stat returns instead of using events of the operating system. Stat follows every symbolic
// link in a path, also when a folder is replaced, and works where there are no events.
type watcher struct {
	log    *slog.Logger
	sighup chan os.Signal

	mu    sync.Mutex
	files []string
}

// newWatcher starts catching SIGHUP. run stops it.
func newWatcher(log *slog.Logger, files ...string) *watcher {
	w := &watcher{log: log, sighup: make(chan os.Signal, 1), files: files}
	signal.Notify(w.sighup, syscall.SIGHUP)
	return w
}

// setFiles replaces the list of files.
func (w *watcher) setFiles(files []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = slices.Clone(files)
}

// run calls report after each change and each SIGHUP, and once at the start, until ctx ends.
func (w *watcher) run(ctx context.Context, report func()) {
	defer signal.Stop(w.sighup)
	_ = panics.Restart(ctx, w.log, "configuration files", func(ctx context.Context) error {
		w.watch(ctx, report)
		return nil
	})
}

func (w *watcher) watch(ctx context.Context, report func()) {
	var reported, previous []fileState
	for wait := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-w.sighup:
			report()
			continue
		case <-time.After(wait):
		}
		began := time.Now()
		current := w.states()
		if slices.EqualFunc(current, previous, fileState.equal) && !slices.EqualFunc(current, reported, fileState.equal) {
			reported = current
			report()
		}
		previous, wait = current, max(pollInterval, pollCost*time.Since(began))
	}
}

// fileState is what os.Stat returned for a file.
type fileState struct {
	name string
	info os.FileInfo // nil after an error
	err  string
}

// states returns the states of all files.
func (w *watcher) states() []fileState {
	w.mu.Lock()
	files := w.files
	w.mu.Unlock()
	states := make([]fileState, len(files))
	for i, name := range files {
		states[i].name = name
		info, err := os.Stat(name)
		if err != nil {
			states[i].err = err.Error()
			continue
		}
		states[i].info = info
	}
	return states
}

func (s fileState) equal(other fileState) bool {
	if s.name != other.name || s.err != other.err || (s.info == nil) != (other.info == nil) {
		return false
	}
	a, b := s.info, other.info
	return a == nil || os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime())
}
