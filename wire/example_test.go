// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/sluice-push/sluice/wire"
)

// A connection works while Run runs. Every request gets a response of any status, or an error that
// says whether a retry is safe.
func Example() {
	clientSide, serverSide := net.Pipe()
	go serveAll(serverSide) // a real client uses wire.Dial
	ctx := context.Background()
	conn, err := wire.Client(ctx, clientSide, wire.Config{Authority: "api.push.apple.com"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error)
	go func() { ended <- conn.Run(ctx) }()

	res, err := conn.Do(ctx, &wire.Request{
		Method: "POST",
		Path:   "/3/device/00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0",
		Header: []wire.Field{{Name: "apns-topic", Value: "com.example.shop"}, {Name: "apns-priority", Value: "10"}},
		Body:   []byte(`{"aps":{"alert":"Your parcel is here"}}`),
	})
	var failed *wire.Error
	switch {
	case errors.As(err, &failed):
		fmt.Println("no response; retry is safe:", failed.Unprocessed())
	default:
		fmt.Println(res.Status, res.Get("apns-id"))
	}

	conn.Drain()
	fmt.Println("ended:", <-ended)
	// Output:
	// 200 123e4567-e89b-42d3-a456-426614174000
	// ended: <nil>
}
