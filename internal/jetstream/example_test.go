// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"fmt"
	"log"
	"os"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// Append returns when the records are on disk. Concurrent calls share one disk sync.
func Example() {
	dir, err := os.MkdirTemp("", "engine-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, stop := context.WithCancel(context.Background())
	e, err := jetstream.Open(ctx, jetstream.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	orders, err := e.Log(ctx, natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}, "orders", "")
	if err != nil {
		log.Fatal(err)
	}
	orders.Observe(func(m *jetstream.Message) {
		for index, r := range m.Records {
			fmt.Println(m.Seq, index, string(r.Data))
		}
	})
	written := make(chan error, 1)
	go func() { written <- orders.Run(ctx) }()

	offsets, err := orders.Append(ctx, jetstream.Record{Data: []byte("one cup")}, jetstream.Record{Data: []byte("two cups")})
	fmt.Println(offsets, err)
	stop()
	fmt.Println(<-written, e.Close())
	// Output:
	// 1 0 one cup
	// 1 1 two cups
	// [{1 0} {1 1}] <nil>
	// <nil> <nil>
}
