// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// migrate moves the tasks of an earlier version from its streams to the log. If it is interrupted, it
// starts over. Afterwards one stream is sealed, so that an earlier version fails instead of missing
// tasks, and the other is deleted. No task is sent meanwhile.
func (q *logQueue) migrate(ctx context.Context) error {
	js := q.cfg.Engine.JetStream()
	m := migration{logQueue: q}
	for _, name := range Streams() {
		stream, err := js.Stream(ctx, name)
		switch {
		case errors.Is(err, natsjs.ErrStreamNotFound):
			continue
		case err != nil:
			return fmt.Errorf("queue: %w", err)
		case stream.CachedInfo().Config.Sealed:
			return nil
		}
		m.old = append(m.old, stream)
	}
	if len(m.old) == 0 {
		return q.sealTasks(ctx)
	}
	if err := m.run(ctx); err != nil {
		return err
	}
	// Events without a task are of interrupted calls.
	if err := q.compare(ctx); err != nil {
		return err
	}
	// It is not sealed, because the server cannot load a sealed stream with schedules.
	if err := js.DeleteStream(ctx, scheduledStreamName); err != nil && !errors.Is(err, natsjs.ErrStreamNotFound) {
		return fmt.Errorf("queue: %w", err)
	}
	if m.moved > 0 {
		q.cfg.Logger.Info("notifications of an earlier version moved to the log", "notifications", m.moved)
	}
	return q.sealTasks(ctx)
}

// sealTasks empties and seals the stream of tasks. It creates the stream if necessary.
func (q *logQueue) sealTasks(ctx context.Context) error {
	cfg := tasksStreamConfig(q.cfg.MaxBytes)
	stream, err := q.cfg.Engine.Stream(ctx, cfg)
	if err == nil {
		err = stream.Purge(ctx)
	}
	if err == nil {
		cfg.Sealed, cfg.Description = true, "The tasks are in the stream SLUICE_EVENTS."
		_, err = q.cfg.Engine.Stream(ctx, cfg)
	}
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// migration is a running migration.
type migration struct {
	*logQueue
	old     []natsjs.Stream
	present map[uuid.UUID]bool // tasks in the log
	moved   int
}

// migratedTogether is the number of tasks that are moved with one write.
const migratedTogether = 500

func (m *migration) run(ctx context.Context) error {
	if err := m.cfg.Journal.WaitCaughtUp(ctx); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := m.readPresent(ctx); err != nil {
		return err
	}
	var batch []*task
	for _, stream := range m.old {
		s := streamHandle{stream: stream}
		err := s.forEachTask(ctx, 0, func(_ string, data []byte) error {
			t, err := decodeTask(data)
			if err != nil {
				m.cfg.Logger.Error("damaged task dropped", "err", err)
				return nil
			}
			if batch = append(batch, t); len(batch) < migratedTogether {
				return nil
			}
			err, batch = m.move(ctx, batch), nil
			return err
		})
		if err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	return m.move(ctx, batch)
}

// readPresent finds the tasks that are in the log.
func (m *migration) readPresent(ctx context.Context) error {
	m.present = map[uuid.UUID]bool{}
	oldest := m.OldestSeq()
	if oldest > m.cfg.Log.LastSeq() {
		return nil
	}
	err := m.cfg.Log.ReadFrom(ctx, oldest, func(message *jetstream.Message) error {
		for _, r := range message.Records {
			if !record.IsRecord(r.Data) {
				continue
			}
			if h, err := record.ParseHeader(r.Data); err == nil && h.Kind == record.Task {
				m.present[h.ID] = true
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// move adds the tasks to the log that have not ended. Of a task that was rescheduled, the streams can
// also have the old copy.
func (m *migration) move(ctx context.Context, tasks []*task) error {
	ids := make([]string, len(tasks))
	for i, t := range tasks {
		ids[i] = t.ID
	}
	states, err := m.cfg.Journal.States(ctx, ids)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	var records []jetstream.Record
	for _, t := range tasks {
		s := states[t.ID]
		id, err := uuid.Parse(t.ID)
		if err != nil || isEnded(s.Status) || m.present[id] || s.Attempt > t.AttemptsStarted && isWaiting(s.Status) {
			continue
		}
		data, err := t.migrated(id, s).Append(nil)
		if err != nil {
			m.cfg.Logger.Error("damaged task dropped", "err", err)
			continue
		}
		m.present[id] = true
		records = append(records, jetstream.Record{Data: data})
	}
	if _, err := m.cfg.Log.Append(ctx, records...); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	m.moved += len(records)
	return nil
}

// migrated returns the record of a task with its attempts. If one of them is not in the task, it is in
// doubt.
func (t *task) migrated(id uuid.UUID, s State) *record.Record {
	r := &record.Record{Notification: t.Notification, Receipt: t.Receipt, Header: record.Header{
		Kind: record.Task, ID: id, App: t.App, At: time.Now(), Status: push.StatusQueued, Platform: t.Notification.Platform, Lane: t.Notification.EffectiveLane(),
		Attempt: t.AttemptsStarted, Reschedules: t.Reschedules, SendAt: t.Due, KeyHash: t.KeyHash, BodyHash: t.BodyHash,
		Tags: t.Notification.Tags,
	}}
	switch {
	case s.Status == push.StatusSending && s.Attempt > t.AttemptsStarted:
		r.Status, r.Attempt, r.SendAt = push.StatusSending, s.Attempt, time.Time{}
	case !t.Due.IsZero() && t.AttemptsStarted == 0:
		r.Status = push.StatusScheduled
	}
	return r
}
