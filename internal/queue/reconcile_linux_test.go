// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

// smallDiskEnv is set in the child in whose folder no file may grow.
const smallDiskEnv = "SLUICE_SMALL_DISK"

// TestAcceptReportsPersistedTasksAfterFailedWrite has a child accept until its files cannot grow any more, and then can:
// each answer waits for the truth.
func TestAcceptReportsPersistedTasksAfterFailedWrite(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "about the disk of an engine in this process")
	if dir := os.Getenv(smallDiskEnv); dir != "" {
		runOnSmallDisk(t, dir)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAfterAFailedWriteTheAnswerTellsWhatIsThere$", "-test.v")
	child.Env = append(os.Environ(), smallDiskEnv+"="+t.TempDir())
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func runOnSmallDisk(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ) // the write fails then
	h := openQueue(t, dir, newMemoryJournal(), newFakeSender(), queue.Config{})
	h.Drain() // what is accepted stays
	h.accept(t, newNotification("shop"))
	limitFileSize(t, 1<<20)
	var working sync.WaitGroup
	failed := make(chan struct{})
	working.Go(func() {
		for h.engine.Ready() == nil {
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
				n := newNotification("shop")
				n.Body, n.KeyHash = strings.Repeat("x", 8<<10), []byte(n.ID)
				err := h.Accept(t.Context(), []*push.Notification{n})[0]
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
	working.Wait()
	there := tasksIn(t, h.engine)
	for id, ok := range accepted {
		if ok != (there[id] == 1) || there[id] > 1 {
			t.Errorf("accepted: %t, and there %d times", ok, there[id])
		}
	}
}

// limitFileSize lets no file of this process grow beyond size.
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

// tasksIn counts the tasks that wait, by their IDs.
func tasksIn(t *testing.T, e *jetstream.Engine) map[string]int {
	t.Helper()
	stream, err := e.JetStream().Stream(t.Context(), "SLUICE_TASKS")
	if err != nil {
		t.Fatal(err)
	}
	ids, seq := map[string]int{}, uint64(0)
	for {
		m, err := stream.GetMsg(t.Context(), seq+1, natsjs.WithGetMsgSubject(">"))
		if err != nil { // it was the last
			return ids
		}
		seq = m.Sequence
		for _, text := range jetstream.Items(m.Data) {
			var task struct {
				ID string `json:"id"`
			}
			if err := json.Unmarshal(text, &task); err != nil {
				t.Fatal(err)
			}
			ids[task.ID]++
		}
	}
}
