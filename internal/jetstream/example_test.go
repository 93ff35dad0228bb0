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

// AppendAll returns when the items are on disk. Concurrent calls share one disk sync.
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
	stream, err := e.Stream(ctx, natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	if err != nil {
		log.Fatal(err)
	}
	w := e.Writer("ORDERS")
	written := make(chan error, 1)
	go func() { written <- w.Run(ctx) }()

	offsets, err := w.AppendAll(ctx, "orders.tea", [][]byte{[]byte(`{"cups":1}`), []byte(`{"cups":2}`)})
	if err != nil {
		log.Fatal(err)
	}
	message, err := stream.GetMsg(ctx, offsets[0].Seq)
	if err != nil {
		log.Fatal(err)
	}
	for index, item := range jetstream.Items(message.Data) {
		fmt.Println(index, string(item))
	}
	stop()
	fmt.Println(<-written, e.Close())
	// Output:
	// 0 {"cups":1}
	// 1 {"cups":2}
	// <nil> <nil>
}
