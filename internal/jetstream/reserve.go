// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// reserveFile holds disk space, so that other programs cannot use it: Config.Reserve, and what accepted
// notifications will still write. When the disk is nearly full, keepFree shrinks the file for these
// writes.
const (
	reserveFile     = "reserve"
	reserveInterval = 25 * time.Millisecond
	// The space that keepFree keeps free besides the file: what can be written in one interval.
	maxFree = 8 << 20
	// How much the file gives up in an interval, so that a program that fills the disk does not take it.
	maxGiven = 256 << 10
)

// reserve is the file that holds disk space. Its methods have no effect without a Reserve.
type reserve struct {
	path      string
	size      int64                           // configured
	left      func(dir string) (uint64, bool) // freeBytes
	committed atomic.Int64                    // what accepted notifications will still write

	mu      sync.Mutex // held while the file changes
	missing bool       // the file system cannot allocate space
}

func newReserve(cfg Config) *reserve {
	size := max(cfg.Reserve, 0)
	return &reserve{path: filepath.Join(cfg.Dir, reserveFile), size: size, left: freeBytes}
}

// held returns the size of the file.
func (r *reserve) held() int64 {
	info, err := os.Stat(r.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// used reports whether less space is available than half of the reserve.
func (r *reserve) used() bool {
	left, ok := r.left(filepath.Dir(r.path))
	return ok && int64(left)+r.held() < r.size/2
}

// adjust grows or shrinks the file so that some space stays free besides it. A file system that cannot
// allocate space has no file.
func (r *reserve) adjust() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	left, ok := r.left(filepath.Dir(r.path))
	if !ok || r.size == 0 || r.missing {
		return nil
	}
	held, full := r.held(), r.size+r.committed.Load()
	free := min(maxFree, full/2)
	available := max(held+int64(left)-free, 0)
	switch {
	case held > full:
		return os.Truncate(r.path, full)
	case held > available:
		return os.Truncate(r.path, max(available, held-maxGiven))
	case held < full && available-held >= min(free, full-held): // not in small steps, because each write changes the free space
		err := allocate(r.path, min(full, available))
		if r.missing = errors.Is(err, errors.ErrUnsupported); r.missing {
			return nil
		}
		return err
	default:
		return nil
	}
}

// makeRoom shrinks the file if less space is free than an accepted notification is about to write. If
// that fails, the write does.
func (r *reserve) makeRoom(bytes int64) {
	left, ok := r.left(filepath.Dir(r.path))
	if !ok || r.size == 0 || int64(left) >= bytes {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if held := r.held(); held > 0 {
		_ = os.Truncate(r.path, max(held-(bytes-int64(left)), 0))
	}
}

// keepFree adjusts the file at an interval until ctx ends.
func (s *server) keepFree(ctx context.Context) error {
	ticker := time.NewTicker(reserveInterval)
	defer ticker.Stop()
	for failed, inUse := false, false; ; {
		err := s.reserve.adjust()
		if err != nil && !failed {
			s.cfg.Logger.Warn("cannot reserve disk space", "file", s.reserve.path, "err", err)
		}
		if used := s.reserve.used(); used && !inUse {
			s.cfg.Logger.Warn("disk nearly full; accepted notifications use the reserve", "dir", s.cfg.Dir, "left", s.reserve.held())
		}
		failed, inUse = err != nil, s.reserve.used()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// admit returns ErrFull if less than the reserve stays free when the committed bytes are written.
func (s *server) admit(committed int64) error {
	left, ok := s.reserve.left(s.cfg.Dir)
	if !ok || s.reserve.size == 0 {
		return nil
	}
	available := int64(left) + s.reserve.held()
	if available-committed >= s.reserve.size {
		s.reserve.committed.Store(committed)
		return nil
	}
	return fmt.Errorf("%w: %d bytes available on the disk of %s; accepted notifications need %d of them, and %d are reserved",
		ErrFull, available, s.cfg.Dir, committed, s.reserve.size)
}
