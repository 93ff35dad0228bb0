// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"bufio"
	"fmt"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

func Example() {
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs) // the Observer of the route
	n := &push.Notification{App: "shop", Platform: push.APNs}
	route.Ended(n, &push.Receipt{Outcome: push.Outcome{Verdict: push.Unregistered, Reason: "Unregistered"}}, 40*time.Millisecond)
	m.Observe(pool.Event{Pool: "apns", Kind: pool.EventConnLost}) // normally called by the pool

	response := httptest.NewRecorder()
	m.Handler().ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "sluice_notifications_total") || strings.HasPrefix(line, "sluice_pool") {
			fmt.Println(line)
		}
	}
	// Output:
	// sluice_notifications_total{app="shop",platform="apns",reason="",status="accepted"} 0
	// sluice_notifications_total{app="shop",platform="apns",reason="Unregistered",status="unregistered"} 1
	// sluice_pool_connections_lost_total{pool="apns"} 1
}
