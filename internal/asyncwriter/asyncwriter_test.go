// SPDX-License-Identifier: Apache-2.0

package asyncwriter_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/asyncwriter"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// destination is a reader that can stall and disappear.
type destination struct {
	stalled chan struct{} // writes block until it is closed
	err     error
	text    strings.Builder
}

func (d *destination) Write(p []byte) (int, error) {
	if d.stalled != nil {
		<-d.stalled
	}
	if d.err != nil {
		return 0, d.err
	}
	return d.text.Write(p)
}

func TestCloseWritesEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &destination{}
		w := asyncwriter.New(d, 1<<20)
		var want strings.Builder
		for i := range 1000 {
			line := fmt.Sprintln("line", i)
			want.WriteString(line)
			if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
		if !w.Close(time.Second) || d.text.String() != want.String() || w.Dropped() != 0 {
			t.Errorf("%d bytes of %d, %d dropped", d.text.Len(), want.Len(), w.Dropped())
		}
	})
}

func TestStalledDestinationDoesNotBlockWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &destination{stalled: make(chan struct{})}
		w := asyncwriter.New(d, 10)
		start := time.Now()
		_, _ = w.Write([]byte("first\n"))
		synctest.Wait() // the background has taken it and waits for the destination
		for range 100 {
			_, _ = w.Write([]byte("1234\n"))
		}
		if w.Dropped() != 98 {
			t.Errorf("%d dropped", w.Dropped())
		}
		if w.Close(time.Second) {
			t.Error("Close reports that everything is written")
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("Close took %s", took)
		}
		close(d.stalled)
		if !w.Close(time.Second) || d.text.String() != "first\n1234\n1234\n" {
			t.Errorf("%q", d.text.String())
		}
	})
}

func TestWritesContinueAfterAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &destination{stalled: make(chan struct{})}
		w := asyncwriter.New(d, 10)
		_, _ = w.Write([]byte("one\n"))
		synctest.Wait()
		_, _ = w.Write([]byte("too long for it\n"))
		close(d.stalled)
		synctest.Wait()
		_, _ = w.Write([]byte("two\n"))
		if !w.Close(time.Second) || d.text.String() != "one\ntwo\n" || w.Dropped() != 1 {
			t.Errorf("%q, %d dropped", d.text.String(), w.Dropped())
		}
		_, _ = w.Write([]byte("after Close\n"))
		if w.Dropped() != 2 {
			t.Errorf("%d dropped", w.Dropped())
		}
	})
}

func TestRefusedWritesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := asyncwriter.New(&destination{err: errors.New("broken pipe")}, 1<<10)
		for range 3 {
			_, _ = w.Write([]byte("line\n"))
			synctest.Wait()
		}
		if !w.Close(time.Second) || w.Dropped() != 3 {
			t.Errorf("%d dropped", w.Dropped())
		}
	})
}

func TestConcurrentWritesStayWhole(t *testing.T) {
	d := &destination{}
	w := asyncwriter.New(d, 1<<10)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				_, _ = w.Write([]byte("0123456789\n"))
			}
		})
	}
	testwait.Call(t, all.Wait, "the end of all writes")
	w.Close(time.Minute)
	got := strings.Count(d.text.String(), "0123456789\n")
	if got*11 != d.text.Len() || got+w.Dropped() != 4000 {
		t.Errorf("%d lines, %d bytes, %d dropped", got, d.text.Len(), w.Dropped())
	}
}
