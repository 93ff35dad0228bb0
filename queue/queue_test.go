// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/queue"
)

func TestWhatIsAcceptedIsSentOnceAndEnds(t *testing.T) {
	h := build(t, t.TempDir(), newMemory(), newSender(), queue.Config{})
	ns := append(notes("shop", 250), notes("news.daily", 3)...)
	h.accept(t, ns...)
	h.journal.ended(t, ns...)
	for _, n := range ns {
		if h.sender.count(n.ID) != 1 {
			t.Errorf("sent %d times", h.sender.count(n.ID))
		}
		if diff := cmp.Diff([]push.Status{push.StatusAccepted, push.StatusQueued, push.StatusSending}, sorted(h.journal.story(n.ID))); diff != "" {
			t.Fatal(diff)
		}
	}
}
