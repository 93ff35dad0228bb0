// SPDX-License-Identifier: Apache-2.0

package loglimit_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/loglimit"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestOneRecordAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l loglimit.Limit
		logged, skipped := 0, int64(0)
		for range 3600 { // an hour
			if n, ok := l.Allow(); ok {
				logged++
				skipped += n
			}
			time.Sleep(time.Second)
		}
		if logged != 60 || skipped != 59*59 {
			t.Errorf("%d records, which report %d others; want 60 and %d", logged, skipped, 59*59)
		}
	})
}

func TestOneOfManyGoroutinesLogs(t *testing.T) {
	var l loglimit.Limit
	var logged atomic.Int64
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if _, ok := l.Allow(); ok {
				logged.Add(1)
			}
		})
	}
	testwait.Call(t, group.Wait, "the goroutines")
	if logged.Load() != 1 {
		t.Errorf("%d records, want 1", logged.Load())
	}
}
