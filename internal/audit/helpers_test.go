// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { os.Exit(jetstreamtest.Main(m).Run()) }

// fixture is an engine with a stream of events.
type fixture struct {
	*testing.T
	engineConfig jetstream.Config
	engine       *jetstream.Engine
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, engineConfig: jetstreamtest.Config(t, filepath.Join(t.TempDir(), "engine"))}
	jetstreamtest.Retry(t, f.engineConfig, func() (err error) {
		f.engine, err = jetstream.Open(t.Context(), f.engineConfig)
		return err
	})
	f.addStream("EVENTS", natsjs.LimitsPolicy)
	t.Cleanup(func() { _ = f.engine.Close() })
	return f
}

// appendRecords appends events as a history does.
func (f *fixture) appendRecords(events ...push.Event) {
	f.Helper()
	for _, e := range events {
		r, err := record.FromEvent(&e)
		if err != nil {
			f.Fatal(err)
		}
		f.appendKind(r.Kind, e)
	}
}

// appendKind appends an event as a record of a kind.
func (f *fixture) appendKind(kind record.Kind, e push.Event) {
	f.Helper()
	r, err := record.FromEvent(&e)
	if err != nil {
		f.Fatal(err)
	}
	r.Kind = kind
	data, err := r.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	message := binary.AppendUvarint([]byte{1}, uint64(len(data)))
	message = binary.LittleEndian.AppendUint32(message, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
	f.store(append(message, data...))
}

func (f *fixture) addStream(name string, retention natsjs.RetentionPolicy) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() error {
		_, err := f.engine.Stream(f.Context(), natsjs.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Retention: retention, AllowDirect: true})
		return err
	})
}

// appendEvents appends events as a version without a log did.
func (f *fixture) appendEvents(events ...push.Event) {
	f.Helper()
	for batch := range slices.Chunk(events, 500) {
		var texts []byte
		for _, e := range batch {
			text, err := e.AppendJSON(nil)
			if err != nil {
				f.Fatal(err)
			}
			texts = append(append(texts, text...), '\n')
		}
		f.store(texts)
	}
}

// store stores a message of the stream of events once.
func (f *fixture) store(data []byte) {
	f.Helper()
	id := newID()
	jetstreamtest.Retry(f, f.engineConfig, func() error {
		_, err := f.engine.JetStream().Publish(f.Context(), "EVENTS.shop", data, natsjs.WithMsgID(id))
		return err
	})
}

// addQueued adds tasks to a stream as a queue does.
func (f *fixture) addQueued(stream string, ids ...string) {
	f.Helper()
	f.addStream(stream, natsjs.WorkQueuePolicy)
	for _, id := range ids {
		text := `{"id":"` + id + `","app":"shop","n":{}}`
		jetstreamtest.Retry(f, f.engineConfig, func() error {
			_, err := f.engine.JetStream().Publish(f.Context(), stream+".x", []byte(text), natsjs.WithMsgID(id))
			return err
		})
	}
}

func (f *fixture) audit(queues ...string) (report *audit.Report) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		report, err = audit.Run(f.Context(), f.engine, audit.Config{Events: "EVENTS", Queues: queues})
		return err
	})
	return report
}

// eventTime is the time of most events in the tests.
var eventTime = time.Now().UTC().Truncate(time.Millisecond)

// newID returns the ID of a new notification.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

func newEvent(id string, status push.Status) push.Event {
	e := push.Event{ID: id, App: "shop", At: eventTime, Status: status, Platform: push.APNs}
	switch status {
	case push.StatusSending:
		e.Attempt = 1
	case push.StatusAccepted:
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Accepted}, Attempts: []push.Attempt{
			{Endpoint: "17.188.143.98:443", Started: eventTime, Took: 40 * time.Millisecond, Outcome: push.Outcome{Verdict: push.Accepted, HTTP: 200}},
		}}
	case push.StatusUnregistered:
		e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unregistered}}
		e.Target = &push.Target{Token: "unregistered"}
	}
	return e
}

// newUnknown returns the event that a notification ended as unknown.
func newUnknown(id, reason string) push.Event {
	e := newEvent(id, push.StatusUnknown)
	e.Receipt = &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unknown, Reason: reason}}
	return e
}

// lifecycle returns the events of a notification that was queued, sent and accepted.
func lifecycle(id string) []push.Event {
	return []push.Event{newEvent(id, push.StatusQueued), newEvent(id, push.StatusSending), newEvent(id, push.StatusAccepted)}
}
