// SPDX-License-Identifier: Apache-2.0

// Package queue stores accepted notifications on disk until they have ended, and passes them to a
// Sender when they are due. It keeps no record of what has ended: that is the Journal's task.
package queue

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Sender delivers notifications. It must be safe for concurrent use.
type Sender interface {
	// Send returns the final receipt.
	Send(ctx context.Context, c *push.Call) *push.Receipt
	// SendAll sends calls of one app, platform and lane, and returns when all have ended. ended gets
	// calls that have ended. It is called by several goroutines and must not keep the slice.
	SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call))
	// Check returns a *push.FieldError if n is invalid.
	Check(n *push.Notification) error
}

// Journal is a totally ordered log of events. Its order decides between concurrent changes of a
// notification, for instance between a cancellation and an attempt. The queue appends an event
// before it acts on it.
type Journal interface {
	// Append writes events and returns the offset of the last one when all are on disk.
	Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error)
	// LastSeq returns the sequence of the last event in the journal. It works before Run.
	LastSeq(ctx context.Context) (uint64, error)
	// WaitForSeq waits until States includes all events up to seq. WaitCaughtUp waits until States
	// includes all events that were in the journal at the time of the call.
	WaitForSeq(ctx context.Context, seq uint64) error
	WaitCaughtUp(ctx context.Context) error
	// States returns the states of notifications. An unknown one is missing or has an empty Status.
	States(ctx context.Context, ids []string) (map[string]State, error)
	// Unfinished returns the IDs of the notifications that have a state other than an end, from an
	// event up to seq, in ascending order. Some may have ended meanwhile.
	Unfinished(ctx context.Context, seq uint64) ([]uuid.UUID, error)
	// Events returns the events of a notification in order.
	Events(ctx context.Context, id string) ([]push.Event, error)
	// Receipt returns the receipt of an app's notification; push.ErrNotFound if there is none.
	Receipt(ctx context.Context, app, id string) (push.Receipt, error)
}

// State is the result of a notification's events, applied in the journal's order. The first end is
// final. A notification that is being sent cannot be cancelled. An attempt is ignored if its number
// is not above that of the previous one. A queued or scheduled event changes a known state only if
// it reports the current number of attempts.
type State struct {
	Status  push.Status
	Attempt int              // number of attempts started
	Offset  jetstream.Offset // of the event that led to this state
}

// Log is the log of an embedded engine, as jetstream.Log.
type Log interface {
	// Append returns the offsets of the records when all are on disk. After an error they will be
	// stored, unless it is ErrNotAdded. AppendAsync does not wait for the disk.
	Append(ctx context.Context, records ...jetstream.Record) ([]jetstream.Offset, error)
	AppendAsync(ctx context.Context, records ...jetstream.Record) error
	// Read returns a message, and ReadFrom all messages from one on.
	Read(ctx context.Context, seq uint64) (*jetstream.Message, error)
	ReadFrom(ctx context.Context, seq uint64, f func(*jetstream.Message) error) error
	// ID identifies the log, and LastSeq its last message.
	ID() string
	LastSeq() uint64
	// Observe calls f for each message that is stored later. Keep keeps the messages that k needs from
	// being deleted.
	Observe(f func(*jetstream.Message))
	Keep(k jetstream.Keeper)
}

// Config configures a queue. Engine, Sender and Journal are required.
type Config struct {
	Engine *jetstream.Engine
	// Log holds the tasks, with an embedded engine. The journal must read its records as events. Without
	// a log, the tasks are in streams of the engine, which several gateways can share.
	Log Log
	// Checkpoint is a file for the state of the tasks in the log, so that a restart does not read the
	// whole log. It may be deleted while no queue is open. Empty means no checkpoints.
	Checkpoint string
	Sender     Sender
	Journal    Journal
	// MaxBytes bounds the due tasks on disk, and separately the scheduled ones. Accept refuses
	// more. Zero means 4 GiB.
	MaxBytes int64
	// MaxDelay bounds how far SendAt may be in the future; zero means no bound. Set it to the
	// retention of the journal: the state of a notification that waits longer is lost.
	MaxDelay time.Duration
	// InFlight limits the concurrent sends of an app and lane; zero means 512.
	InFlight int
	// RetryFor is how long after its due time a notification without a TTL is retried; zero means
	// 24 hours.
	RetryFor time.Duration
	// SendTimeout bounds one call of Sender.Send. Zero means 25 seconds.
	SendTimeout time.Duration
	// SettleTime is how long an event must be in the journal before its task is expected in the queue,
	// or the end of its attempt in the journal: a gateway may be in the middle of Accept or of a send.
	// It must be longer than both take, and less than half of the time for which a killed gateway keeps
	// a claimed Idempotency-Key, so that no other request uses the key before the notification has
	// ended. Zero means two minutes. With an embedded engine it is used only after damage: at the start,
	// all other processes have ended.
	SettleTime time.Duration
	// Grace is how long sends in progress may take during a drain; zero means 30 seconds.
	Grace time.Duration
	// Logger receives log records; nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, 4<<30)
	c.InFlight = cmp.Or(c.InFlight, 512)
	c.RetryFor = cmp.Or(c.RetryFor, 24*time.Hour)
	c.SendTimeout = cmp.Or(c.SendTimeout, 25*time.Second)
	c.Grace = cmp.Or(c.Grace, 30*time.Second)
	c.SettleTime = cmp.Or(c.SettleTime, 2*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Queue is a persistent queue of notifications. It is safe for concurrent use. Accept blocks unless
// Run is running.
type Queue struct{ backend }

// backend is an implementation of a queue: logQueue for an embedded engine, clusterQueue for gateways
// that share their tasks.
type backend interface {
	// Accept stores notifications and returns one error for each, nil if it is on disk. Their ID, App
	// and AcceptedAt must be set. A *push.FieldError means that the notification is invalid,
	// push.ErrQueueFull that the queue is full: neither is stored. After any other error the
	// notification may or may not be stored: Confirm finds out.
	Accept(ctx context.Context, ns []*push.Notification) []error
	// Confirm waits until it is known whether a waiting notification will be sent, and returns false if
	// it no longer waits: its task was missing, so it has ended, or it was sent or cancelled meanwhile.
	Confirm(ctx context.Context, id string) (waits bool, err error)
	// AfterResolved calls f when it is known whether a notification that was passed to Accept is stored:
	// later if a write got no response, and otherwise before it returns. It does not call f if the
	// process ends before that.
	AfterResolved(id string, f func())
	// Cancel cancels a notification that is queued or scheduled, and returns its receipt. The receipt
	// is not cancelled if another event, such as an attempt, came first. The error is push.ErrNotFound
	// if the app has no such notification; after any other error it may or may not be cancelled.
	Cancel(ctx context.Context, app, id string) (push.Receipt, error)
	// Ready returns why no notification can be accepted now, or nil.
	Ready() error
	// Status reads the current status.
	Status(ctx context.Context) (Status, error)
	// OldestTask returns when the oldest message with tasks was stored that the history could delete, or
	// the zero time if there is none.
	OldestTask(ctx context.Context) (time.Time, error)
	// Drain stops the sending of further tasks permanently. Tasks that wait or are accepted later stay
	// on disk.
	Drain()
	// Run sends tasks until ctx ends. Then it drains: it lets sends in progress end for at most Grace,
	// counted from Drain, keeps the other tasks, and completes pending writes.
	Run(ctx context.Context) error
}

// Open opens the queue. It starts no goroutines.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	if cfg.Engine == nil || cfg.Sender == nil || cfg.Journal == nil {
		return nil, errors.New("queue: Engine, Sender and Journal are required")
	}
	if cfg.Log != nil {
		q, err := openLogQueue(ctx, cfg.withDefaults())
		if err != nil {
			return nil, err
		}
		return &Queue{q}, nil
	}
	q, err := openClusterQueue(ctx, cfg.withDefaults())
	if err != nil {
		return nil, err
	}
	return &Queue{q}, nil
}
