// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestNotificationsYieldsAllPages(t *testing.T) {
	env := newTestEnv(t)
	h := env.startGateway(anyPort, fmt.Sprintf("queue: {dir: %q}\n", t.TempDir()))
	c := env.newClient(client.Config{}, h.url())
	started := time.Now().Add(-time.Minute)
	var want []string
	for i := range 7 {
		n := testNotification(i)
		if n.Tags = []string{"campaign:spring/27", "x"}; i == 3 {
			n.Tags = nil
		}
		r, err := c.Enqueue(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if i != 3 {
			want = append([]string{r.ID}, want...)
		}
	}
	var found []string
	for s, err := range c.Notifications(t.Context(), push.Query{Tag: "campaign:spring/27", Platform: push.APNs, Since: started, Until: time.Now().Add(time.Hour), Limit: 2}) {
		if err != nil || len(s.Tags) != 2 {
			t.Fatalf("%+v %v", s, err)
		}
		found = append(found, s.ID)
	}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", found, want)
	}
	var stats push.Stats
	testwait.Until(t, func() bool {
		var err error
		stats, err = c.Stats(t.Context(), push.StatsQuery{Tag: "x", Since: started, By: []push.StatsBy{push.ByStatus, push.ByHour}})
		return err != nil || stats.Total == 6
	}, "all notifications have ended")
	if len(stats.Counts) == 0 || stats.Counts[0].Status != push.StatusAccepted || stats.Counts[0].Hour.IsZero() || stats.Latency == nil {
		t.Errorf("%+v", stats)
	}
	_, err := c.Search(t.Context(), push.Query{Tag: "no tag", Statuses: []push.Status{push.StatusAccepted}})
	problem, ok := errors.AsType[*client.Error](err)
	if !ok || problem.Type != "invalid-parameter" || problem.Field != "tag" {
		t.Errorf("%+v", err)
	}
	if _, err := client.Direct("shop", fixedSender{push.Accepted}).Search(t.Context(), push.Query{}); err == nil {
		t.Error("a direct client has no history")
	}
	h.stop()
	lost := env.newClient(client.Config{Timeout: 100 * time.Millisecond}, h.url())
	if _, err := lost.Search(t.Context(), push.Query{}); err == nil {
		t.Error("a client without a gateway finds something")
	}
}
