// SPDX-License-Identifier: Apache-2.0

package quotalease_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/quotalease"
	"github.com/sluice-push/sluice/quota"
)

func Example() {
	limiter := quota.New(quota.Config{Total: quota.Limit{Rate: 10_000, Per: time.Minute}})
	cluster := &fakeCluster{} // in a real cluster, use quotalease.NewStore

	member := quotalease.New(quotalease.Config{Store: &fakeConn{fakeCluster: cluster}, ID: "gateway-1", FallbackShare: 0.02, Members: 10})
	member.SetLimiters(map[string]quotalease.RateLimiter{"digest of the project": limiter})
	fmt.Printf("without a lease it may use %.1f %%\n", 100*limiter.Status().Share)

	ctx, stop := context.WithCancel(context.Background())
	stop() // Run renews the leases until ctx ends
	fmt.Println(member.Run(ctx))
	// Output:
	// without a lease it may use 0.2 %
	// <nil>
}
