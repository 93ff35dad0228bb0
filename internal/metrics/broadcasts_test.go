// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"testing"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/metrics"
)

func TestBroadcastMetrics(t *testing.T) {
	m := metrics.New(nil)
	if lines := scrape(t, m, "sluice_broadcast"); len(lines) > 0 {
		t.Errorf("without a queue: %q", lines)
	}
	var status []broadcast.Status
	m.WatchBroadcasts(func() []broadcast.Status { return status })
	if lines := scrape(t, m, "sluice_broadcast"); len(lines) > 0 {
		t.Errorf("without broadcasts: %q", lines)
	}
	status = []broadcast.Status{{
		App: "shop", States: map[broadcast.State]uint64{broadcast.Paused: 2}, AutoPaused: map[string]uint64{"refused": 1}, Pending: 3, Due: 4, Delayed: 5, Enqueued: 6,
	}, {App: "news"}}
	expectLines(t, m, `sluice_broadcasts{app="shop",state="paused"} 2`, `sluice_broadcasts{app="shop",state="running"} 0`,
		`sluice_broadcasts_auto_paused{app="shop",reason="refused"} 1`, `sluice_broadcasts_auto_paused{app="shop",reason="unregistered"} 0`,
		`sluice_broadcast_pending{app="shop"} 3`, `sluice_broadcast_due{app="shop"} 4`, `sluice_broadcasts_delayed{app="shop"} 5`,
		`sluice_broadcast_enqueued_total{app="shop"} 6`, `sluice_broadcast_enqueued_total{app="news"} 0`, `sluice_broadcasts{app="news",state="recalled"} 0`)
}
