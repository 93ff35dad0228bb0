// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// smallDiskEnv is set to a directory in the child process whose files cannot grow.
const smallDiskEnv = "SLUICE_SMALL_DISK"

// TestAcceptReportsPersistedTasksAfterFailedWrite runs a child process that accepts until a file
// size limit makes writes fail, and then raises the limit. Accept must return nil exactly for the
// persisted tasks.
func TestAcceptReportsPersistedTasksAfterFailedWrite(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "the test needs an embedded server")
	if dir := os.Getenv(smallDiskEnv); dir != "" {
		runOnSmallDisk(t, dir)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), smallDiskEnv+"="+t.TempDir())
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func runOnSmallDisk(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ) // so that the write returns an error
	f := openQueue(t, dir, newMemoryJournal(), newFakeSender(), queue.Config{})
	f.Drain() // so that accepted tasks stay in the stream
	f.accept(t, newNotification("shop"))
	limitFileSize(t, 1<<20)
	var working sync.WaitGroup
	failed := make(chan struct{})
	deadline := time.Now().Add(testwait.Bound)
	working.Go(func() {
		for f.engine.Writable() == nil && time.Now().Before(deadline) {
			runtime.Gosched()
		}
		limitFileSize(t, 1<<40)
		close(failed)
	})
	var mu sync.Mutex
	accepted := map[string]bool{}
	for range 4 {
		working.Go(func() {
			for again := 8; again > 0; {
				if time.Now().After(deadline) {
					t.Error("no write failed, or the engine did not recover")
					return
				}
				n := newNotification("shop")
				n.Body, n.KeyHash = strings.Repeat("x", 8<<10), []byte(n.ID)
				err := f.Accept(t.Context(), []*push.Notification{n})[0]
				mu.Lock()
				accepted[n.ID] = err == nil
				mu.Unlock()
				select {
				case <-failed:
					again--
				default:
				}
			}
		})
	}
	testwait.Call(t, working.Wait, "the end of all callers")
	stored := tasksIn(t, f.engine)
	for id, ok := range accepted {
		if ok != (stored[id] == 1) || stored[id] > 1 {
			t.Errorf("accepted: %t, stored %d times", ok, stored[id])
		}
	}
}

// limitFileSize limits the size of the files that this process writes.
func limitFileSize(t *testing.T, size uint64) {
	t.Helper()
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Error(err)
	}
	r.Cur = min(size, r.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Error(err)
	}
}

// tasksIn returns how often each task ID is in the log.
func tasksIn(t *testing.T, e *jetstream.Engine) map[string]int {
	t.Helper()
	log, err := history.OpenLog(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	err = log.ReadFrom(t.Context(), 0, func(m *jetstream.Message) error {
		for _, stored := range m.Records {
			r, err := record.Parse(stored.Data)
			if err != nil {
				return err
			}
			ids[r.ID.String()]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}
