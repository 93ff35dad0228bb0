// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

// This sends a first notification. `gateway dev` prints a key, and the token of a device that its
// mock of APNs accepts.
func Example() {
	c, err := client.Open(client.Config{Gateways: []string{"http://127.0.0.1:8080"}, App: "demo", Key: client.Key(os.Getenv("SLUICE_KEY"))})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	receipt, err := c.Send(context.Background(), &push.Notification{Platform: push.APNs, Target: push.Target{Token: "00fc13ad…"}, Title: "Hi"})
	if err != nil {
		log.Fatal(err)
	}
	log.Println(receipt.Status())
}

// The result says whether to delete the token, to retry later, or to fix the notification.
func ExampleClient_Send() {
	c := client.Direct("shop", fixedSender{push.Unregistered})
	receipt, err := c.Send(context.Background(), &push.Notification{Platform: push.APNs, Target: push.Target{Token: "00fc13ad…"}, Title: "Hi"})
	problem, _ := errors.AsType[*client.Error](err)
	switch {
	case err == nil && receipt.Verdict == push.Unregistered:
		fmt.Println("delete the token")
	case err == nil:
		fmt.Println("verdict:", receipt.Status(), receipt.Reason)
	case problem.Field != "":
		fmt.Println("fix the field", problem.Field)
	case receipt.Verdict == push.Unknown:
		fmt.Println("it may have been delivered:", problem)
	default:
		fmt.Println("not delivered; retry in", problem.RetryAfter)
	}
	// Output: delete the token
}

// The batch can have any length: at most a few thousand notifications are in memory at a time.
func ExampleClient_SendBatch() {
	c := client.Direct("shop", fixedSender{push.Accepted})
	tokens := slices.Values([]string{"00aa…", "00bb…", "00cc…"}) // in practice, the rows of a database
	everybody := func(yield func(*push.Notification) bool) {
		for token := range tokens {
			if !yield(&push.Notification{Platform: push.APNs, Target: push.Target{Token: token}, Title: "News"}) {
				return
			}
		}
	}
	ends := map[push.Status]int{}
	for receipt, err := range c.SendBatch(context.Background(), everybody) {
		if err != nil {
			log.Print(err) // for this notification only; *receipt.Index says which
		}
		ends[receipt.Status()]++
	}
	fmt.Println(ends)
	// Output: map[accepted:3]
}

// A delivery.Table replaces the gateways in the same process.
func ExampleDirect() {
	var table delivery.Table // see package delivery for how to configure it
	c := client.Direct("shop", table)
	_, err := c.Send(context.Background(), &push.Notification{Platform: push.FCM, Target: push.Target{Topic: "news"}, Title: "Hi"})
	fmt.Println(err)
	// Output: client: invalid-field: platform: must be configured for this app, which has no platforms
}

// OpenTelemetry's propagators write to a carrier, and propagation.HeaderCarrier makes one of an
// http.Header.
func ExampleConfig_tracing() {
	cfg := client.Config{
		Gateways: []string{"http://127.0.0.1:8080"}, App: "shop", Key: "slk_example",
		Propagate: func(ctx context.Context, h http.Header) {
			propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
		},
	}
	_, err := client.New(cfg)
	fmt.Println(err, cfg.Key)
	// Output: <nil> …
}

// If the first gateway of a cluster has not responded after 150 ms, Send also sends the request to
// a second one. The notification is still sent only once.
func ExampleConfig_hedging() {
	cfg := client.Config{
		Gateways: []string{"http://10.0.1.10:8080", "http://10.0.2.10:8080"}, App: "shop", Key: "slk_example",
		Zone: "tokyo-a", HedgeAfter: 150 * time.Millisecond,
	}
	_, err := client.New(cfg)
	fmt.Println(err)
	// Output: <nil>
}

// This reads the tokens that are no longer registered, starting where the program stopped last
// time.
func ExampleClient_Events() {
	c := client.Direct("shop", fixedSender{push.Accepted}) // events need a gateway with a queue, so this returns an error
	cursor := ""                                           // the cursor stored by the last run
	for event, err := range c.Events(context.Background(), cursor, push.StatusUnregistered) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println("delete", event.Target.Key())
		cursor = event.Cursor
	}
	// Output: client: this needs a gateway with a queue; a client made by Direct has none
}

// A broadcast is created, uploaded, validated and started. Each step can be repeated if the program was
// interrupted; Audience.Continue continues an upload.
func ExampleBroadcasts() {
	run := func(ctx context.Context, c *client.Client, audience *os.File) error {
		b := c.Broadcasts()
		sale, err := b.Create(ctx, map[string]any{
			"name":    "Spring sale",
			"message": map[string]any{"title": "Hello {{name|there}}", "body": "Everything must go."},
			"rate":    map[string]any{"per_minute": 60_000},
		})
		if err != nil {
			return err
		}
		if err := b.Upload(ctx, sale.ID, client.Audience{Format: client.NDJSON, Content: audience}); err != nil {
			return err
		}
		if sale, err = b.Do(ctx, sale.ID, client.CommandValidate, client.CommandOptions{}); err != nil {
			return err
		}
		for sale.State == client.BroadcastValidating {
			time.Sleep(time.Second)
			if sale, err = b.Get(ctx, sale.ID); err != nil {
				return err
			}
		}
		if sale.State != client.BroadcastReady {
			return errors.New(sale.Problem)
		}
		_, err = b.Do(ctx, sale.ID, client.CommandStart, client.CommandOptions{IfMatch: sale.ETag})
		return err
	}
	// Broadcasts need a gateway with a queue, so this returns an error.
	fmt.Println(run(context.Background(), client.Direct("shop", fixedSender{push.Accepted}), nil))
	// Output: client: this needs a gateway with a queue; a client made by Direct has none
}

// fixedSender returns the same verdict for all notifications.
type fixedSender struct{ verdict push.Verdict }

func (p fixedSender) Send(_ context.Context, n *push.Notification) push.Receipt {
	o := push.Outcome{Verdict: p.verdict}
	return push.Receipt{ID: n.ID, Outcome: o, Attempts: []push.Attempt{{Endpoint: "here", Outcome: o}}}
}
