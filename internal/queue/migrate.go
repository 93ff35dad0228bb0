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

// The streams of versions without a log.
const (
	tasksStreamName     = "SLUICE_TASKS"
	scheduledStreamName = "SLUICE_LATER"
)

// Streams returns the names of the streams that held tasks in earlier versions, for audits.
func Streams() []string { return []string{tasksStreamName, scheduledStreamName} }

// tasksStreamConfig returns the stream for due tasks of earlier versions.
func tasksStreamConfig(maxBytes int64) natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: tasksStreamName, Subjects: []string{"sluice.task.>"}, Retention: natsjs.WorkQueuePolicy,
		Discard: natsjs.DiscardNew, MaxBytes: maxBytes, AllowDirect: true,
	}
}

// refuseEarlierTasks returns an error if a cluster has tasks of an earlier version. Otherwise it seals their
// stream, so that gateways of that version fail instead of accepting more.
func (q *Queue) refuseEarlierTasks(ctx context.Context) error {
	js := q.cfg.Engine.JetStream()
	for _, name := range Streams() {
		var waiting uint64
		err := q.cfg.Engine.Setup(ctx, "stream "+name, func(ctx context.Context) error {
			stream, err := js.Stream(ctx, name)
			if errors.Is(err, natsjs.ErrStreamNotFound) {
				return nil
			}
			if err == nil {
				waiting = stream.CachedInfo().State.Msgs
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("queue: %w", err)
		}
		if waiting > 0 {
			return fmt.Errorf("queue: %d messages of an earlier version wait in the stream %s: run the gateways of that version until queue.waiting in GET /v1/status is empty, stop all of them, then start this version",
				waiting, name)
		}
	}
	err := q.cfg.Engine.Setup(ctx, "deletion of stream "+scheduledStreamName, func(ctx context.Context) error {
		if err := js.DeleteStream(ctx, scheduledStreamName); err != nil && !errors.Is(err, natsjs.ErrStreamNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return q.sealTasks(ctx)
}

// migrate moves the tasks of an earlier version from its streams to the log. If it is interrupted, it
// starts over. Afterwards one stream is sealed, so that an earlier version fails instead of missing
// tasks, and the other is deleted. No task is sent meanwhile. In a cluster it does nothing: see
// refuseEarlierTasks.
func (q *Queue) migrate(ctx context.Context) error {
	if !q.cfg.Engine.Embedded() {
		return nil
	}
	js := q.cfg.Engine.JetStream()
	m := migration{Queue: q}
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

// sealTasks empties and seals the stream of tasks. It creates the stream if necessary. Several gateways can
// do so at the same time.
func (q *Queue) sealTasks(ctx context.Context) error {
	js, cfg := q.cfg.Engine.JetStream(), tasksStreamConfig(q.cfg.MaxBytes)
	cfg.Replicas = q.cfg.Engine.Replicas()
	seal := func(ctx context.Context) error {
		stream, err := js.Stream(ctx, cfg.Name)
		if errors.Is(err, natsjs.ErrStreamNotFound) {
			stream, err = js.CreateStream(ctx, cfg)
		}
		if err != nil || stream.CachedInfo().Config.Sealed {
			return err
		}
		if err := stream.Purge(ctx); err != nil {
			return err
		}
		sealed := stream.CachedInfo().Config
		sealed.Sealed, sealed.Description = true, "The tasks are in the stream SLUICE_EVENTS."
		// The server sets these, and refuses to unset them if another gateway has sealed the stream meanwhile.
		sealed.DenyDelete, sealed.DenyPurge = true, true
		_, err = js.UpdateStream(ctx, sealed)
		return err
	}
	err := q.cfg.Engine.Setup(ctx, "stream "+cfg.Name, func(ctx context.Context) error {
		err := seal(ctx)
		if err == nil {
			return nil
		}
		if stream, readErr := js.Stream(ctx, cfg.Name); readErr == nil && stream.CachedInfo().Config.Sealed {
			return nil // another gateway has sealed it meanwhile
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// migration is a running migration.
type migration struct {
	*Queue
	old     []natsjs.Stream
	present map[uuid.UUID]bool // tasks in the log
	moved   int
}

// migratedTogether is the number of tasks that are moved with one write.
const migratedTogether = 500

func (m *migration) run(ctx context.Context) error {
	if err := m.readPresent(ctx); err != nil {
		return err
	}
	var batch []*task
	for _, stream := range m.old {
		err := forEachTask(ctx, stream, func(data []byte) error {
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

// forEachTask calls f for the tasks in a stream until f returns an error.
func forEachTask(ctx context.Context, stream natsjs.Stream, f func(data []byte) error) error {
	for seq := uint64(0); ; {
		m, err := stream.GetMsg(ctx, seq+1, natsjs.WithGetMsgSubject(">"))
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = m.Sequence
		for _, data := range jetstream.Items(m.Data) {
			if err := f(data); err != nil {
				return err
			}
		}
	}
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
