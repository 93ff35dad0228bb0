// SPDX-License-Identifier: Apache-2.0

package rest_test

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/rest"
)

// hall is a sender's Send that holds everybody until so many are inside, and notes who they are.
type hall struct {
	seats int

	mu     sync.Mutex
	full   chan struct{}
	inside map[string]bool
}

func (h *hall) seat(_ context.Context, n *push.Notification) push.Receipt {
	h.mu.Lock()
	if h.inside == nil {
		h.inside, h.full = map[string]bool{}, make(chan struct{})
	}
	h.inside[myself()] = true
	if len(h.inside) == h.seats {
		close(h.full)
	}
	full := h.full
	h.mu.Unlock()
	<-full
	return accepted(n)
}

// leave empties the hall and returns who was there.
func (h *hall) leave() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	were := h.inside
	h.inside = nil
	return were
}

// myself is the number of the goroutine that asks.
func myself() string {
	text := make([]byte, 64)
	name, _, _ := bytes.Cut(text[:runtime.Stack(text, false)], []byte(" ["))
	return string(name)
}

func TestABatchIsSentByThoseWhoSentTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, dismiss := context.WithCancel(t.Context())
		crew := new(rest.Crew)
		go func() { _ = crew.Run(ctx) }()
		synctest.Wait()
		h := hall{seats: 8}
		d := open(t, func(cfg *rest.Config) { cfg.Crew = crew })
		d.play = h.seat
		d.ask("POST", batch, strings.Repeat(good+"\n", 8), ndjson)
		first := h.leave()
		synctest.Wait()
		d.ask("POST", batch, strings.Repeat(good+"\n", 8), ndjson)
		for who := range h.leave() {
			if !first[who] {
				t.Errorf("%s is new", who)
			}
		}
		dismiss()
	})
}

func TestACrewGoesOnceAllThatItCarriesHasEndedAndBatchesAreSentWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, dismiss := context.WithCancel(t.Context())
		crew := new(rest.Crew)
		gone := make(chan error, 1)
		go func() { gone <- crew.Run(ctx) }()
		synctest.Wait()
		h := hall{seats: 2}
		d := open(t, func(cfg *rest.Config) { cfg.Crew = crew })
		d.play = h.seat
		go d.ask("POST", batch, good, ndjson)
		synctest.Wait()
		dismiss()
		synctest.Wait()
		select {
		case err := <-gone:
			t.Errorf("the crew went while one of it was at work (%v)", err)
		default:
		}
		go d.ask("POST", batch, good, ndjson) // the other one that the hall waits for
		if err := <-gone; err != nil || d.count() != 2 {
			t.Fatalf("%v, %d sent", err, d.count())
		}
		d.play = nil
		if got := receipts(t, d.ask("POST", batch, good+"\n"+good, ndjson).Body); len(got) != 2 {
			t.Errorf("after its end: %+v", got)
		}
	})
}
