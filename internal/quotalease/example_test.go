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
	gate := quota.New(quota.Config{Total: quota.Limit{Rate: 10_000, Per: time.Minute}})
	cluster := &fakeCluster{} // a share.Bucket where there is a real one

	sharing := quotalease.New(quotalease.Config{Store: &fakeConn{fakeCluster: cluster}, ID: "one of many", FallbackShare: 0.02, Members: 10})
	sharing.SetLimiters(map[string]quotalease.RateLimiter{"the project's digest": gate})
	fmt.Printf("before it has met the others it may spend %.1f %%\n", 100*gate.Status().Share)

	ctx, stop := context.WithCancel(context.Background())
	stop() // Run keeps the shares until then
	fmt.Println(sharing.Run(ctx))
	// Output:
	// before it has met the others it may spend 0.2 %
	// <nil>
}
