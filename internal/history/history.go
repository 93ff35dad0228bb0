// SPDX-License-Identifier: Apache-2.0

// Package history stores the events of all notifications in a JetStream stream, and answers queries
// from a local index that can be rebuilt from the stream at any time. It makes no decisions about
// notifications.
package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/push"
)

// Stream is the name of the stream that holds the events.
const Stream = "SLUICE_EVENTS"

// eventsPerMessage is the maximum number of events in a message. It is larger than the default
// because events are small and frequent.
const eventsPerMessage = 500

// electionTimeout is how long calls wait for a cluster without a leader, the same time as in a
// jetstream.Writer.
const electionTimeout = 20 * time.Second

// tryTimeout bounds one request to the server. A request to a leader that has died gets no response,
// and is sent again to the next leader.
const tryTimeout = 2 * time.Second

func withTryTimeout(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return request(ctx)
}

// Config configures a history. Engine is required.
type Config struct {
	Engine *jetstream.Engine
	// Log is the log of OpenLog, or nil. With a log, the history runs no writer and no consumer, and its
	// index has each record as soon as it is stored. The caller runs the log, and closes it after the
	// history.
	Log *jetstream.Log
	// Dir is the directory of the index. It is created if it does not exist. If empty, the index is
	// in a temporary directory and is rebuilt at every start.
	Dir string
	// MaxAge is the retention of events; zero means seven days.
	MaxAge time.Duration
	// MaxBytes bounds the stream. Beyond it the oldest events are deleted, except for what the keeper
	// of Log needs. Zero means 8 GiB. The index needs about a fifth of it, without Log the same space.
	MaxBytes int64
	// IdempotencyTTL is the retention of Idempotency-Keys; zero means 24 hours. MaxAge bounds it.
	IdempotencyTTL time.Duration
	// MaxWait bounds the wait of a call for events that this gateway has not received from the
	// stream; zero means 20 seconds.
	MaxWait time.Duration
	// Logger receives log records; nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxAge, 7*24*time.Hour)
	setDefault(&c.MaxBytes, 8<<30)
	setDefault(&c.IdempotencyTTL, 24*time.Hour)
	setDefault(&c.MaxWait, electionTimeout)
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

// History stores and finds the events of all apps. It is safe for concurrent use. Its methods block
// unless Run is running.
type History struct {
	cfg         Config
	ownsDir     bool // Close removes the directory
	stream      natsjs.Stream
	writer      *jetstream.Writer
	overlay     *overlay
	asyncWrites chan asyncWrite
	asyncSlots  *semaphore.Weighted // one for each event in asyncWrites
	notifier    *notifier
	damageFound chan struct{} // receives a value when a query finds the index damaged
	trimmed     chan struct{} // receives a value when Trim has deleted events
	counters    counters
	infoCalls   singleflight.Group // of sharedInfo
	infoRequest sync.Mutex         // held during a request of sharedInfo
	searches    *semaphore.Weighted

	// With cfg.Log, these replace index and checkpoint.
	entries  *logIndex
	firstSeq atomic.Uint64 // the oldest message of the log

	index      atomic.Pointer[index]
	checkpoint checkpoint // of the index; owned by Run, and by runIndexer while follow runs
}

// counters holds the values of Status.
type counters struct {
	received, lost, indexRebuilds atomic.Uint64
	newest, committed             atomic.Uint64 // sequences: the last known message of the stream, and the last one in the index
}

// Open creates or opens the stream and the index. It starts no goroutines. The caller must call
// Close.
func Open(ctx context.Context, cfg Config) (*History, error) {
	cfg = cfg.withDefaults()
	h := &History{
		cfg: cfg, writer: cfg.Engine.Writer(Stream), overlay: newOverlay(), asyncWrites: make(chan asyncWrite, maxAsyncEvents), notifier: newNotifier(),
		asyncSlots: semaphore.NewWeighted(maxAsyncEvents), damageFound: make(chan struct{}, 1), trimmed: make(chan struct{}, 1),
		searches: semaphore.NewWeighted(concurrentSearches),
	}
	h.writer.MaxItems = eventsPerMessage
	var err error
	if cfg.Log != nil {
		h.stream = cfg.Log.Stream()
	} else if h.stream, err = cfg.Engine.Stream(ctx, streamConfig(cfg)); err != nil {
		return nil, err
	}
	if err := h.createDir(); err != nil {
		return nil, err
	}
	if cfg.Log != nil {
		err = h.openLog(ctx)
	} else {
		err = h.openIndex(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// streamConfig returns a stream that deletes its oldest messages by age and size, and never refuses
// new ones.
func streamConfig(cfg Config) natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: Stream, Subjects: []string{subjectPrefix + ">"}, Retention: natsjs.LimitsPolicy, Discard: natsjs.DiscardOld,
		MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes, AllowDirect: true,
	}
}

// Verify reports why the index in a directory, which need not exist yet, cannot be written.
func Verify(dir string) error {
	if err := jetstream.VerifyDir(dir); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, indexName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

func (h *History) createDir() (err error) {
	if h.cfg.Dir == "" {
		h.cfg.Dir, err = os.MkdirTemp("", "sluice-history-")
		h.ownsDir = err == nil
	} else {
		err = os.MkdirAll(h.cfg.Dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("history: index directory: %w", err)
	}
	return nil
}

func (h *History) openIndex(ctx context.Context) error {
	info, err := h.streamInfo(ctx)
	if err != nil {
		return err
	}
	idx, cp, err := openIndex(ctx, h.cfg.Dir, streamID(info), h.cfg.Logger)
	if err != nil {
		return err
	}
	h.checkpoint = cp
	h.counters.committed.Store(cp.lastSeq)
	h.overlay.reset(cp.lastSeq)
	if old := h.index.Swap(idx); old != nil {
		return old.close()
	}
	return nil
}

// KeyScope identifies the history in which Idempotency-Keys are claimed. Gateways with the same
// scope treat concurrent calls with the same key as one call. It is empty with an embedded server,
// whose history no other gateway shares.
func (h *History) KeyScope() string {
	if h.cfg.Engine.Embedded() {
		return ""
	}
	return h.index.Load().stream
}

// streamID identifies a stream. A recreated stream has a different ID.
func streamID(info *natsjs.StreamInfo) string {
	return strconv.FormatInt(info.Created.UnixNano(), 36)
}

// Close closes the index. Call it after Run has returned.
func (h *History) Close() error {
	var err error
	if idx := h.index.Load(); idx != nil {
		err = idx.close()
	}
	if h.entries != nil {
		err = h.entries.close()
	}
	if h.ownsDir {
		err = errors.Join(err, os.RemoveAll(h.cfg.Dir))
	}
	return err
}

// Run appends events and updates the index until ctx ends. Then it writes the events that still
// wait.
func (h *History) Run(ctx context.Context) error {
	if h.cfg.Log != nil {
		return h.runLog(ctx)
	}
	writeCtx, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var background errgroup.Group
	background.Go(func() error { return h.writer.Run(writeCtx) })
	background.Go(func() error {
		defer stopWriting()
		return h.restart(ctx, "asynchronous writes", h.runAsyncWrites)
	})
	return errors.Join(h.restart(ctx, "index", h.runIndex), background.Wait())
}

// restart runs work until it returns, again after each panic.
func (h *History) restart(ctx context.Context, name string, work func(context.Context) error) error {
	return panics.Restart(ctx, h.cfg.Logger, "history: "+name, work)
}

// runIndex keeps the index up to date until ctx ends. It returns an error only after a panic.
func (h *History) runIndex(ctx context.Context) error {
	for ctx.Err() == nil {
		err := h.follow(ctx)
		if _, panicked := errors.AsType[*panics.Error](err); panicked {
			return err
		}
		if ctx.Err() == nil {
			h.recoverFollow(ctx, err)
		}
	}
	return nil
}

// Append appends events and returns the offset of the last one when all are on disk. Events of one
// app keep their order. Find and States include them immediately; WaitForSeq waits until they are
// in order with the events of other gateways. After an error the events may or may not be stored.
func (h *History) Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error) {
	var offsets []jetstream.Offset
	var err error
	if h.cfg.Log != nil {
		offsets, err = h.appendRecords(ctx, events)
	} else {
		offsets, err = h.appendEvents(ctx, events)
	}
	if err != nil || len(offsets) == 0 {
		return jetstream.Offset{}, err
	}
	return offsets[len(offsets)-1], nil
}

func (h *History) appendEvents(ctx context.Context, events []push.Event) ([]jetstream.Offset, error) {
	headers, err := encodeEvents(events)
	if err != nil {
		return nil, err
	}
	h.overlay.addPending(headers...)
	return h.append(ctx, headers)
}

// append writes events that are in the overlay.
func (h *History) append(ctx context.Context, headers []*eventHeader) ([]jetstream.Offset, error) {
	offsets := make([]jetstream.Offset, 0, len(headers))
	for len(headers) > 0 {
		items := [][]byte{headers[0].text}
		for _, s := range headers[1:] {
			if s.app != headers[0].app {
				break
			}
			items = append(items, s.text)
		}
		batch, err := h.writer.AppendAll(ctx, subjectOf(headers[0].app), items)
		if err != nil {
			h.overlay.removePending(headers)
			return nil, fmt.Errorf("history: %w", err)
		}
		offsets, headers = append(offsets, batch...), headers[len(items):]
	}
	return offsets, nil
}

// WaitForSeq waits until this gateway has received all messages up to seq, so that States and Find
// reflect the stream's order. It fails after Config.MaxWait: while the index cannot be written or is
// being rebuilt, messages may not arrive for a long time.
func (h *History) WaitForSeq(ctx context.Context, seq uint64) error {
	if h.cfg.Log != nil { // the index has what is stored
		return nil
	}
	received := h.overlay.waitFor(seq)
	if received == nil {
		return nil
	}
	timer := time.NewTimer(h.cfg.MaxWait)
	defer timer.Stop()
	select {
	case <-received:
		return nil
	case <-timer.C:
		return fmt.Errorf("history: message %d not received within %s: the index cannot be written or is being rebuilt", seq, h.cfg.MaxWait)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitCaughtUp waits until this gateway has received all messages that were in the stream at the
// time of the call. It fails like WaitForSeq.
func (h *History) WaitCaughtUp(ctx context.Context) error {
	if h.cfg.Log != nil {
		return nil
	}
	info, err := h.sharedInfo(ctx)
	if err != nil {
		return err
	}
	if info.State.Msgs == 0 { // no message will arrive
		h.overlay.skip(info.State.LastSeq)
	}
	return h.WaitForSeq(ctx, info.State.LastSeq)
}

// sharedInfo is streamInfo for concurrent calls: all that arrive during one request share the next.
func (h *History) sharedInfo(ctx context.Context) (*natsjs.StreamInfo, error) {
	result := h.infoCalls.DoChan("", func() (any, error) {
		h.infoRequest.Lock()
		defer h.infoRequest.Unlock()
		h.infoCalls.Forget("") // calls from here on need a later answer
		return h.streamInfo(context.WithoutCancel(ctx))
	})
	select {
	case r := <-result:
		info, _ := r.Val.(*natsjs.StreamInfo)
		return info, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// streamInfo returns the state of the stream with all acknowledged messages. It retries for up to
// electionTimeout.
func (h *History) streamInfo(ctx context.Context) (info *natsjs.StreamInfo, err error) {
	for began := time.Now(); ; {
		err := withTryTimeout(ctx, func(ctx context.Context) (err error) {
			info, err = jetstream.Info(ctx, h.stream)
			return err
		})
		if err == nil {
			return info, nil
		}
		if time.Since(began) > electionTimeout || errors.Is(err, nats.ErrConnectionClosed) || !pause(ctx) {
			return nil, fmt.Errorf("history: %w", err)
		}
	}
}
