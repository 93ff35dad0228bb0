// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

func Example() {
	endpoints, _ := pool.New(pool.Config{
		Name:     "shop apns",
		Resolver: fixedResolver(3),
		Dial:     func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) { return newFakeConn(addr), nil },
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = endpoints.Run(ctx) }()

	table := delivery.Table{"shop": {push.APNs: &delivery.Route{
		Provider: scriptedService(unavailable), // the first attempt gets a 503
		Executor: &delivery.Executor{
			Pool:        endpoints,
			Retry:       retry.Policy{Attempts: 3},
			Budget:      new(retry.Budget),
			RateLimiter: quota.New(quota.Config{}),
		},
	}}}
	n := newNotification("2f3c…")
	receipt := table.Sender(n).Send(ctx, &push.Call{Notification: n})
	for _, a := range receipt.Attempts {
		fmt.Println(a.Verdict, a.HTTP)
	}
	fmt.Println("receipt:", receipt.Status())
	// Output:
	// unavailable 503
	// accepted 200
	// receipt: accepted
}
