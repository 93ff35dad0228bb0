// SPDX-License-Identifier: Apache-2.0

// Package history keeps what became of every notification, step by step, in a stream of the engine, and answers from a
// local index that can be made anew from that stream at any moment. It decides nothing about a notification.
package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Stream is the name of the stream of events.
const Stream = "SLUICE_EVENTS"

// eventsPerMessage is how many events may share one sync; there are more of them than of anything else, and they are small.
const eventsPerMessage = 500

// electionTimeout is how long a cluster may be without a leader before a caller is told: as long as a writer's.
const electionTimeout = 20 * time.Second

// Config says where the events are and how long they are kept. Engine is required.
type Config struct {
	Engine *jetstream.Engine
	// Dir is the folder of the index, made if there is none. Empty takes a temporary one: the index is made anew at
	// every start.
	Dir string
	// MaxAge is how long an event is kept; zero is seven days.
	MaxAge time.Duration
	// MaxBytes bounds the stream: beyond it the oldest events go, whatever their age. Zero is 8 GiB. The index takes
	// about as much again.
	MaxBytes int64
	// KeepKeys is how long an Idempotency-Key is known; zero is 24 hours. More than MaxAge is not kept.
	IdempotencyTTL time.Duration
	// ClaimFor is how long a key stays claimed in a cluster whose gateway died before it told of the key; zero is 15
	// minutes. Keep it above the longest send.
	ClaimTTL time.Duration
	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxAge, 7*24*time.Hour)
	setDefault(&c.MaxBytes, 8<<30)
	setDefault(&c.IdempotencyTTL, 24*time.Hour)
	setDefault(&c.ClaimTTL, 15*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// History is the events of all apps. Any number of goroutines may use it. Run has to run.
type History struct {
	cfg         Config
	ownsDir     bool // the folder is ours to remove
	stream      natsjs.Stream
	writer      *jetstream.Writer
	overlay     *overlay
	asyncWrites chan asyncWrite
	asyncSlots  *semaphore.Weighted // for the events in notes
	notifier    *notifier
	claims      *claims
	damageFound chan struct{} // a reader has met damage
	counters    counters

	index      atomic.Pointer[index]
	checkpoint checkpoint // of the index; Run's, and while it follows the stream, project's
}

// counters is what Status adds up.
type counters struct {
	received, lost, rebuilt atomic.Uint64
	newest, committed       atomic.Uint64 // chunks: the last of the stream as far as we know, and the last in the index
}

// Open makes or finds the stream and the index. It starts nothing. Close ends it.
func Open(ctx context.Context, cfg Config) (*History, error) {
	cfg = cfg.withDefaults()
	h := &History{
		cfg: cfg, writer: cfg.Engine.Writer(Stream, false), overlay: newOverlay(), asyncWrites: make(chan asyncWrite, maxAsyncEvents), notifier: newNotifier(),
		asyncSlots: semaphore.NewWeighted(maxAsyncEvents), damageFound: make(chan struct{}, 1),
	}
	h.writer.MaxItems = eventsPerMessage
	var err error
	if h.stream, err = cfg.Engine.Stream(ctx, streamConfig(cfg)); err != nil {
		return nil, err
	}
	if h.claims, err = newClaims(ctx, cfg); err != nil {
		return nil, err
	}
	if err := h.createDir(); err != nil {
		return nil, err
	}
	if err := h.openIndex(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// streamConfig bounds the stream by age and size. What is beyond goes, oldest first; nothing is ever refused.
func streamConfig(cfg Config) natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: Stream, Subjects: []string{subjectPrefix + ">"}, Retention: natsjs.LimitsPolicy, Discard: natsjs.DiscardOld,
		MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes, AllowDirect: true,
	}
}

func (h *History) createDir() (err error) {
	if h.cfg.Dir == "" {
		h.cfg.Dir, err = os.MkdirTemp("", "sluice-history-")
		h.ownsDir = err == nil
	} else {
		err = os.MkdirAll(h.cfg.Dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("history: the folder of the index: %w", err)
	}
	return nil
}

func (h *History) openIndex(ctx context.Context) error {
	info, err := h.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	idx, at, err := openIndex(ctx, h.cfg.Dir, streamID(info), h.cfg.Logger)
	if err != nil {
		return err
	}
	h.checkpoint = at
	h.counters.committed.Store(at.lastSeq)
	h.overlay.reset(at.lastSeq)
	if old := h.index.Swap(idx); old != nil {
		return old.close()
	}
	return nil
}

// KeyScope names the history in which keys are claimed. Calls with one Idempotency-Key are one call at all gateways that have
// the same name here: of those that come at once one is made, and the others are told what came of it. Empty where no other
// gateway can have the history.
func (h *History) KeyScope() string {
	if h.cfg.Engine.Embedded() {
		return ""
	}
	return h.index.Load().stream
}

// streamID tells a stream from one that was made anew.
func streamID(info *natsjs.StreamInfo) string {
	return strconv.FormatInt(info.Created.UnixNano(), 36)
}

// Close ends what Open began, after Run.
func (h *History) Close() error {
	var err error
	if idx := h.index.Load(); idx != nil {
		err = idx.close()
	}
	if h.ownsDir {
		err = errors.Join(err, os.RemoveAll(h.cfg.Dir))
	}
	return err
}

// Run writes events and keeps the index up with the stream, until ctx ends. Then it writes what has been noted, and
// returns when that is on disk; what could not be written is an error.
func (h *History) Run(ctx context.Context) error {
	writing, written := context.WithCancel(context.WithoutCancel(ctx))
	defer written()
	var house errgroup.Group
	house.Go(func() error { return h.writer.Run(writing) })
	house.Go(func() error { h.claims.run(writing); return nil })
	house.Go(func() error {
		defer written()
		h.runAsyncWrites(ctx)
		return nil
	})
	for ctx.Err() == nil {
		err := h.follow(ctx)
		if ctx.Err() == nil {
			h.recoverFollow(ctx, err)
		}
	}
	return house.Wait()
}

// Append writes events and returns the place of the last when all are on disk. Those of one app keep their order. Find and
// States know them at once; whoever needs their order among others' events waits for Reach. After an error they may be
// there or not.
func (h *History) Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error) {
	steps, err := encodeEvents(events)
	if err != nil {
		return jetstream.Offset{}, err
	}
	h.overlay.addPending(steps...)
	places, err := h.append(ctx, steps)
	if err != nil || len(places) == 0 {
		return jetstream.Offset{}, err
	}
	return places[len(places)-1], nil
}

// append writes steps that the overlay expects.
func (h *History) append(ctx context.Context, steps []*eventHeader) ([]jetstream.Offset, error) {
	places := make([]jetstream.Offset, 0, len(steps))
	for len(steps) > 0 {
		items := [][]byte{steps[0].text}
		for _, s := range steps[1:] {
			if s.app != steps[0].app {
				break
			}
			items = append(items, s.text)
		}
		got, err := h.writer.AppendAll(ctx, subjectOf(steps[0].app), items)
		if err != nil {
			h.overlay.removePending(steps)
			return nil, fmt.Errorf("history: %w", err)
		}
		places, steps = append(places, got...), steps[len(items):]
	}
	return places, nil
}

// WaitForSeq waits until this gateway has heard of everything up to seq, so that States and Find answer in the stream's order.
func (h *History) WaitForSeq(ctx context.Context, seq uint64) error {
	told := h.overlay.waitFor(seq)
	if told == nil {
		return nil
	}
	select {
	case <-told:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitCaughtUp waits until this gateway has heard of everything that was in the stream when it was called.
func (h *History) WaitCaughtUp(ctx context.Context) error {
	info, err := h.streamInfo(ctx)
	if err != nil {
		return err
	}
	if info.State.Msgs == 0 { // there is nothing to hear of
		h.overlay.skip(info.State.LastSeq)
	}
	return h.WaitForSeq(ctx, info.State.LastSeq)
}

// streamInfo asks how the stream stands, until it is told.
func (h *History) streamInfo(ctx context.Context) (*natsjs.StreamInfo, error) {
	for began := time.Now(); ; {
		info, err := h.stream.Info(ctx)
		if err == nil {
			return info, nil
		}
		if time.Since(began) > electionTimeout || !pause(ctx) {
			return nil, fmt.Errorf("history: %w", err)
		}
	}
}
