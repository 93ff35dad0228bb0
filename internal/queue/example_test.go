// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

// channelSender sends the titles of notifications to a channel.
type channelSender chan string

func (channelSender) Check(*push.Notification) error { return nil }

func (s channelSender) Send(_ context.Context, n *push.Call) *push.Receipt {
	n.Receipt = push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if err := n.BeforeAttempt(1); err != nil { // for instance because it is cancelled
		n.Receipt.Outcome = push.Outcome{Verdict: push.Abandoned}
		return &n.Receipt
	}
	s <- n.Title
	return &n.Receipt
}

func (s channelSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, s.Send)
}

// An accepted notification is on disk, and is sent when it is due.
func Example() {
	dir, err := os.MkdirTemp("", "queue-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, stop := context.WithCancel(context.Background())
	e, err := jetstream.Open(ctx, jetstream.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	tasks, err := history.OpenLog(ctx, e, "")
	if err != nil {
		log.Fatal(err)
	}
	events, err := history.Open(ctx, history.Config{Engine: e, Log: tasks})
	if err != nil {
		log.Fatal(err)
	}
	out := make(channelSender)
	q, err := queue.Open(ctx, queue.Config{Engine: e, Log: tasks, Journal: historyJournal{events}, Sender: out})
	if err != nil {
		log.Fatal(err)
	}
	historyCtx, stopHistory := context.WithCancel(context.Background())
	queueDone, historyDone, logDone := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { logDone <- tasks.Run(historyCtx) }()
	go func() { historyDone <- events.Run(historyCtx) }()
	go func() { queueDone <- q.Run(ctx) }()

	n := newNotification("shop")
	n.Title, n.SendAt = "Tea is ready", n.AcceptedAt.Add(100*time.Millisecond)
	fmt.Println("accepted:", q.Accept(ctx, []*push.Notification{n}))
	fmt.Println("sent:", <-out)

	stop() // the queue first, because it writes to the log
	fmt.Println("drained:", <-queueDone)
	stopHistory()
	fmt.Println("closed:", <-logDone, <-historyDone, events.Close(), e.Close())
	// Output:
	// accepted: [<nil>]
	// sent: Tea is ready
	// drained: <nil>
	// closed: <nil> <nil> <nil> <nil>
}
