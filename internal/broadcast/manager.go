// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// Queue is the queue that sends the notifications, as queue.Queue.
type Queue interface {
	// Accept, Ready, Control, Tally, ReadTally, CatchUp, EndOpen and Postpone are described at queue.Queue.
	Accept(ctx context.Context, ns []*push.Notification) []error
	Ready() error
	Control(ctx context.Context, app string, broadcast uuid.UUID, status push.Status, revision uint64) error
	Tally(broadcast uuid.UUID) *tally.Tally
	ReadTally(broadcast uuid.UUID, f func(*tally.Tally))
	CatchUp(ctx context.Context) error
	EndOpen(ctx context.Context, broadcast uuid.UUID, phase tally.Phase, outcome *push.Outcome) (left int, err error)
	Postpone(ctx context.Context, broadcast uuid.UUID, lines *roaring.Bitmap, until time.Time) error
}

// Config configures a Manager. Engine, Queue, Check, Record and Lease are required.
type Config struct {
	Engine *jetstream.Engine
	Queue  Queue
	// Check returns a *push.FieldError if a notification is invalid.
	Check func(*push.Notification) error
	// Translate returns the request that a provider gets for a notification, or nil if the app does not have
	// the platform. Without it, previews have no requests.
	Translate func(*push.Notification) (*Request, error)
	// Record appends events to the history.
	Record func(ctx context.Context, events ...push.Event) error
	// Lease runs work while this gateway is the only one that runs it for a name, and again when it has
	// ended, until ctx ends.
	Lease func(ctx context.Context, name string, work func(context.Context) error) error
	// Dir is where temporary files are created. Empty means the default directory.
	Dir string
	// MaxLines and MaxBytes limit the audience of a broadcast. Zero means 10 million lines and 8 GiB.
	MaxLines uint64
	MaxBytes int64
	// ApproveAbove is how many devices a broadcast may have without the approval of a second caller. Zero
	// means no limit.
	ApproveAbove uint64
	// Retention is how long a broadcast is stored after its last change. Zero means a week.
	Retention time.Duration
	// Logger receives log records; nil discards them.
	Logger *slog.Logger
}

// Manager manages the broadcasts of all apps. Each gateway of a cluster has one; the log decides between
// them. A Manager is safe for concurrent use. It stores nothing before Run runs.
type Manager struct {
	cfg   Config
	store *store
	rates rates

	controls singleflight.Group // of control

	mu       sync.Mutex
	running  map[string]*worker // by ID
	wake     chan struct{}      // receives a value when there is a new broadcast to work on
	counted  map[string]*Status // by app; without what this gateway does
	enqueued map[string]uint64  // by app: notifications that this gateway has enqueued
}

// pollInterval is how often a gateway looks for changes that another gateway has made. No attempt waits for
// it: those depend on the log.
const pollInterval = time.Second

// Open opens the stored broadcasts. It starts no goroutine.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	cfg.MaxLines = cmp.Or(cfg.MaxLines, 10_000_000)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 8<<30)
	cfg.Retention = cmp.Or(cfg.Retention, 7*24*time.Hour)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := openStore(ctx, cfg.Engine)
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg, store: s, running: map[string]*worker{}, wake: make(chan struct{}, 1), enqueued: map[string]uint64{}}, nil
}

// Run works on the broadcasts until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	var all []*document
	read := uint64(0) // the last change in all
	for warned := false; ; {
		last, err := m.store.docs.LastSeq(ctx)
		if err == nil && last != read {
			if all, err = m.store.list(ctx); err == nil {
				read = last
			}
		}
		if err != nil && !warned && ctx.Err() == nil {
			m.cfg.Logger.Warn("cannot read the list of broadcasts, or some of them; retrying", "err", err)
		}
		warned = err != nil
		for _, b := range all {
			if b.needsWork(time.Now(), m.cfg.Retention) {
				m.start(ctx, b, &work)
			}
		}
		if err == nil || len(all) > 0 {
			m.observe(all)
		}
		select {
		case <-m.wake:
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

// needsWork reports whether something must be done without a command.
func (b *document) needsWork(now time.Time, retention time.Duration) bool {
	switch {
	case b.State == Validating || b.State == Running || b.State == Paused || b.State == Recalling:
		return true
	case b.State.IsFinal() && b.FinishedAt.IsZero():
		return true
	}
	return b.isObsolete(now, retention)
}

// isObsolete reports whether the broadcast is to be deleted.
func (b *document) isObsolete(now time.Time, retention time.Duration) bool {
	if b.Deleted {
		return true
	}
	last := b.FinishedAt
	if b.State == Draft || b.State == Ready {
		last = b.CreatedAt
	}
	return !last.IsZero() && now.After(last.Add(retention))
}

// start starts to work on a broadcast, unless that is going on.
func (m *Manager) start(ctx context.Context, b *document, work *sync.WaitGroup) {
	id := b.ID
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[id] != nil {
		return
	}
	w := &worker{app: b.App, changed: make(chan struct{}, 1)}
	m.running[id] = w
	work.Go(func() {
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.running, id)
		}()
		ctx, done := context.WithCancel(ctx)
		defer done()
		err := m.cfg.Lease(ctx, id, func(leased context.Context) error {
			defer done() // if nothing is left to do
			return panics.Restart(leased, m.cfg.Logger, "broadcast "+id, func(ctx context.Context) error { return m.work(ctx, id, w) })
		})
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("work on a broadcast has failed", "broadcast", id, "err", err)
		}
	})
}

// changed makes the work on a broadcast read it again, or starts it.
func (m *Manager) changed(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	to := m.wake
	if w := m.running[id]; w != nil {
		to = w.changed
	}
	select {
	case to <- struct{}{}:
	default:
	}
}

// find returns a broadcast of an app. The error is ErrChanged unless revision is zero or that of it.
func (m *Manager) find(ctx context.Context, app, id string, revision uint64) (*document, error) {
	if !isID(id) {
		return nil, ErrNotFound
	}
	b, err := m.store.load(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case b.App != app || b.Deleted:
		return nil, ErrNotFound
	case revision != 0 && revision != b.Revision:
		return nil, ErrChanged
	}
	return b, nil
}

// save stores a broadcast. The error is ErrChanged if it has changed meanwhile.
func (m *Manager) save(ctx context.Context, b *document) error {
	err := m.store.save(ctx, b)
	if err == nil {
		m.changed(b.ID)
	}
	return err
}

// Create stores a new broadcast, a draft. The error is a *strictjson.Error if the definition is invalid.
func (m *Manager) Create(ctx context.Context, app, caller string, d *Definition) (*View, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	now := time.Now()
	id := uuid.UUID(push.BroadcastID(now.UnixMilli(), rand.Uint64()))
	b := &document{Broadcast: Broadcast{ID: id.String(), App: app, Definition: *d, State: Draft, CreatedAt: now.UTC(), CreatedBy: caller}}
	if err := m.save(ctx, b); err != nil {
		return nil, err
	}
	return m.view(ctx, b)
}

// Replace replaces the definition of a broadcast that has not started. It is a draft then. The upload
// stays.
func (m *Manager) Replace(ctx context.Context, app, caller, id string, revision uint64, d *Definition) (*View, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	b, err := m.find(ctx, app, id, revision)
	if err != nil {
		return nil, err
	}
	if b.State != Draft && b.State != Ready {
		return nil, b.conflict("the definition can be replaced only before the broadcast starts")
	}
	b.Definition, b.State = *d, Draft
	b.dropValidation()
	b.addAuthor(caller)
	if err := m.save(ctx, b); err != nil {
		return nil, err
	}
	return m.view(ctx, b)
}

// Get returns a broadcast.
func (m *Manager) Get(ctx context.Context, app, id string) (*View, error) {
	b, err := m.find(ctx, app, id, 0)
	if err != nil {
		return nil, err
	}
	return m.view(ctx, b)
}

// List returns the broadcasts of an app, the newest first. Those that are damaged are left out.
func (m *Manager) List(ctx context.Context, app string) (views []*View, err error) {
	all, err := m.store.list(ctx)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *document) int { return strings.Compare(b.ID, a.ID) })
	views = []*View{}
	for _, b := range all {
		if b.App != app || b.Deleted {
			continue
		}
		v, err := m.view(ctx, b)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

// Delete deletes a broadcast that has not started, or that has ended. The history keeps its notifications.
func (m *Manager) Delete(ctx context.Context, app, id string, revision uint64) error {
	b, err := m.find(ctx, app, id, revision)
	if err != nil {
		return err
	}
	if b.State != Draft && b.State != Ready && b.FinishedAt.IsZero() {
		return b.conflict("a broadcast that is %s cannot be deleted: cancel it first", b.State)
	}
	return m.remove(ctx, b)
}

// remove deletes a broadcast with its data. It marks the document first, so that no command changes the
// broadcast meanwhile, and so that a gateway goes on after a crash.
func (m *Manager) remove(ctx context.Context, b *document) error {
	if !b.Deleted {
		b.Deleted = true
		if err := m.store.save(ctx, b); err != nil {
			return err
		}
	}
	if !b.StartedAt.IsZero() {
		if err := m.forget(ctx, b); err != nil {
			return err
		}
	}
	return m.store.remove(ctx, b.ID)
}

// forget makes the queue forget the tally of a broadcast, if it has one.
func (m *Manager) forget(ctx context.Context, b *document) error {
	if err := m.cfg.Queue.CatchUp(ctx); err != nil {
		return err
	}
	known := false
	m.cfg.Queue.ReadTally(b.uuid(), func(t *tally.Tally) { known = t != nil })
	if !known {
		return nil
	}
	return m.cfg.Queue.Control(ctx, b.App, b.uuid(), tally.Deleted, b.Revision)
}

func (b *document) uuid() uuid.UUID { return uuid.MustParse(b.ID) }

// CommandRequest is a command of a caller.
type CommandRequest struct {
	Command Command
	Caller  string
	// Revision must be that of the broadcast, if it is not zero.
	Revision uint64
	// Recall replaces the recall message, with the command Recall.
	Recall *RecallMessage
}

// Do executes a command. When it returns, the change is on disk; after Pause, Cancel and Recall, no gateway
// starts an attempt at the message any more. A command that has had its effect already changes nothing.
// The error is a *ConflictError if the command is not possible now.
func (m *Manager) Do(ctx context.Context, app, id string, c CommandRequest) (*View, error) {
	if err := c.Recall.check(); err != nil {
		return nil, prefixed("recall", err)
	}
	b, err := m.find(ctx, app, id, c.Revision)
	if err != nil {
		return nil, err
	}
	done, err := b.check(c.Command)
	if err == nil && !done {
		err = m.apply(ctx, b, &c)
	}
	if err == nil && b.controlStatus() != "" { // also if an earlier command was interrupted before it
		err = m.control(ctx, b)
	}
	if err != nil {
		return nil, err
	}
	return m.view(ctx, b)
}

// apply changes and stores a broadcast.
func (m *Manager) apply(ctx context.Context, b *document, c *CommandRequest) error {
	now := time.Now().UTC()
	switch c.Command {
	case Validate:
		if _, single := b.Audience.target(); !single && (b.Upload == nil || !b.Upload.Complete) {
			return b.conflict("the audience is not uploaded completely")
		}
		b.State, b.Problem = Validating, ""
	case Approve:
		if b.isAuthor(c.Caller) {
			return b.conflict("another caller than those that have created or changed the broadcast must approve it")
		}
		b.ApprovedBy = c.Caller
	case Start:
		if b.isOver(now) {
			return b.conflict("schedule.expires_at is past: replace the definition")
		}
		if m.cfg.ApproveAbove > 0 && b.Validation.Valid > m.cfg.ApproveAbove && b.ApprovedBy == "" {
			return b.conflict("a broadcast to more than %d devices needs the approval of a second caller", m.cfg.ApproveAbove)
		}
		b.State, b.StartedAt, b.StartedBy = Running, now, c.Caller
	case Pause:
		b.State, b.PauseReason = Paused, pausedByCommand
	case Resume:
		if err := m.postponeHeld(ctx, b); err != nil {
			return err
		}
		if b.State, b.PauseReason = Running, ""; b.InRecall {
			b.State = Recalling
		}
		m.cfg.Queue.ReadTally(b.uuid(), func(t *tally.Tally) {
			if t != nil {
				b.EndedAtResume = t.Enqueued(tally.Send) - uint64(t.Open(tally.Send))
			}
		})
	case Cancel:
		b.State, b.PauseReason, b.FinishedAt = Cancelled, "", time.Time{}
	case Recall:
		if c.Recall != nil {
			b.Definition.Recall = c.Recall
		}
		if b.Definition.Recall == nil {
			return b.conflict("the broadcast has no recall message: send one as recall in the body of the command")
		}
		known := false
		m.cfg.Queue.ReadTally(b.uuid(), func(t *tally.Tally) { known = t != nil })
		if !b.FinishedAt.IsZero() && !known {
			return b.conflict("the log does not contain the notifications of the broadcast any more")
		}
		b.State, b.InRecall, b.RecalledAt, b.PauseReason, b.FinishedAt, b.Results = Recalling, true, now, "", time.Time{}, nil
	}
	return m.save(ctx, b)
}

// controlStatus returns the status that the log must have, or "" if it needs none.
func (b *document) controlStatus() push.Status {
	if b.StartedAt.IsZero() {
		return ""
	}
	return map[State]push.Status{
		Running: tally.Running, Paused: tally.Paused, Recalling: tally.Recalling, Completed: tally.Completed, Cancelled: tally.Cancelled,
		Recalled: tally.Recalled, Expired: tally.Expired,
	}[b.State]
}

// control appends the control record for the state of the broadcast, if the log does not have it. The
// document is written first, so that it can be made again. Calls for one state at the same time, of a
// command and of the work, append one record.
func (m *Manager) control(ctx context.Context, b *document) error {
	result := m.controls.DoChan(fmt.Sprint(b.ID, b.Revision), func() (any, error) {
		return nil, m.appendControl(context.WithoutCancel(ctx), b)
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Manager) appendControl(ctx context.Context, b *document) error {
	if err := m.cfg.Queue.CatchUp(ctx); err != nil {
		return err
	}
	status, known, current := b.controlStatus(), false, false
	m.cfg.Queue.ReadTally(b.uuid(), func(t *tally.Tally) {
		known = t != nil
		current = known && (t.Status == status || t.Revision > b.Revision)
	})
	if current {
		return nil
	}
	if !known {
		if b.State.IsFinal() && !b.FinishedAt.IsZero() { // it is not in the log any more
			return nil
		}
		if err := m.cfg.Queue.Control(ctx, b.App, b.uuid(), tally.Started, 0); err != nil {
			return err
		}
	}
	return m.cfg.Queue.Control(ctx, b.App, b.uuid(), status, b.Revision)
}

// definition returns that of the message, or of the recall message, which is nil if there is none.
func (b *document) definition(recall bool) *audience.Definition {
	switch {
	case !recall:
		return &b.Definition.Definition
	case b.Definition.Recall != nil:
		return &b.Definition.Recall.Definition
	}
	return nil
}

// content compiles the message, or that of the recall.
func (b *document) content(recall bool) (*audience.Content, error) {
	d := b.definition(recall)
	if d == nil {
		return nil, errors.New("broadcast: no recall message")
	}
	return audience.Compile(d)
}
