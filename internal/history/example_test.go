// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// A history stores events, finds notifications immediately, and streams all events in order.
func Example() {
	ctx, end := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	e, err := jetstream.Open(ctx, jetstream.Config{Dir: filepath.Join(dir, "engine")})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	events, err := history.OpenLog(ctx, e, "")
	if err != nil {
		log.Fatal(err)
	}
	h, err := history.Open(ctx, history.Config{Engine: e, Log: events, Dir: filepath.Join(dir, "index")})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	ended := make(chan error, 2)
	go func() { ended <- events.Run(ctx) }()
	go func() { ended <- h.Run(ctx) }()

	const id = "019ab5a4-0000-7000-8000-000000000001"
	for _, status := range []push.Status{push.StatusQueued, push.StatusCancelled} {
		if _, err := h.Append(ctx, push.Event{ID: id, App: "shop", At: time.Now(), Status: status}); err != nil {
			log.Fatal(err)
		}
	}
	receipt, found, err := h.Find(ctx, "shop", id)
	fmt.Println(receipt.Status(), len(found), err)
	for e, err := range h.Feed(ctx, "shop", history.Oldest, nil) {
		fmt.Println(e.Cursor, e.Status, err)
		if e.Status == push.StatusCancelled {
			break
		}
	}

	end()
	fmt.Println(<-ended, <-ended)
	// Output:
	// cancelled 2 <nil>
	// 1.0 queued <nil>
	// 2.0 cancelled <nil>
	// <nil> <nil>
}
