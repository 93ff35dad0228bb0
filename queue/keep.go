// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/push"
)

// The streams. Their subjects end in how many tasks a chunk holds, so that the engine can count what waits:
//
//	sluice.task.LANE.APP.COUNT        to be sent now; gone with its ack
//	sluice.later.LANE.APP.COUNT.NUID  to be sent at a time: the engine itself makes of it, when the time has come, …
//	sluice.due.LANE.APP.COUNT         … one like a task, in the same stream
const (
	tasksName = "SLUICE_TASKS"
	laterName = "SLUICE_LATER"

	taskSubjects  = "sluice.task."
	laterSubjects = "sluice.later."
	dueSubjects   = "sluice.due."
)

// keep is one of the streams with its writer.
type keep struct {
	stream jetstream.Stream
	writer *engine.Writer
	newest atomic.Uint64 // the last chunk that Accept knows of
}

// reached takes note of a chunk.
func (k *keep) reached(seq uint64) {
	for now := k.newest.Load(); seq > now && !k.newest.CompareAndSwap(now, seq); now = k.newest.Load() {
	}
}

func newKeep(ctx context.Context, e *engine.Engine, cfg jetstream.StreamConfig, address func(string, int) (string, nats.Header)) (*keep, error) {
	stream, err := e.Stream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	k := &keep{stream: stream, writer: e.Writer(cfg.Name, true)}
	k.writer.Address = address
	return k, nil
}

// taskStream refuses what it has no room for, rather than forget what it holds.
func taskStream(maxBytes int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: tasksName, Subjects: []string{taskSubjects + ">"}, Retention: jetstream.WorkQueuePolicy,
		Discard: jetstream.DiscardNew, MaxBytes: maxBytes, AllowDirect: true,
	}
}

// laterStream has no bound of its own, for a stream with schedules cannot refuse; Accept looks at its size instead.
func laterStream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: laterName, Subjects: []string{laterSubjects + ">", dueSubjects + ">"}, Retention: jetstream.WorkQueuePolicy,
		AllowMsgSchedules: true, AllowDirect: true,
	}
}

// source is what one flow drinks from: the chunks of one app and lane in one of the streams.
type source struct {
	stream string
	lane   push.Lane
	app    string
}

// subject is that of the source's chunks, without their count.
func (s source) subject() string {
	if s.stream == laterName {
		return dueSubjects + s.path()
	}
	return taskSubjects + s.path()
}

// path is lane and app. A dot would part the subject, and no app's name holds a percent sign.
func (s source) path() string { return string(s.lane) + "." + strings.ReplaceAll(s.app, ".", "%") }

// consumer is the name of the source's consumer, which may hold no dot.
func (s source) consumer() string { return strings.ReplaceAll(s.path(), ".", "-") }

// sourceOf reads a subject of the stream: whose chunks it tells of, and how many tasks each holds.
func sourceOf(stream, subject string) (s source, tasks int, ok bool) {
	parts := strings.Split(subject, ".")
	if len(parts) != 5 {
		return source{}, 0, false
	}
	tasks, err := strconv.Atoi(parts[4])
	return source{stream: stream, lane: push.Lane(parts[2]), app: strings.ReplaceAll(parts[3], "%", ".")}, tasks, err == nil
}

func addressTask(subject string, items int) (string, nats.Header) {
	return subject + "." + strconv.Itoa(items), nil
}

// shelf is where the tasks of one source are put that are due at once, or in one second: what one chunk may hold.
type shelf struct {
	source
	due int64 // the second, in nanoseconds of Unix time; 0 is at once
}

// subject is what chunks are appended under: for a time, PATH@NANOSECONDS.
func (s shelf) subject() string {
	if s.due == 0 {
		return s.source.subject()
	}
	return s.path() + "@" + strconv.FormatInt(s.due, 10)
}

// addressLater has the engine publish the chunk when its time has come. The engine's client would cut the time to seconds;
// ours is whole already, and each task waits for the rest of its time in the flow.
func addressLater(subject string, items int) (string, nats.Header) {
	path, nanos, _ := strings.Cut(subject, "@")
	at, _ := strconv.ParseInt(nanos, 10, 64) // shelf.subject wrote it
	count := "." + strconv.Itoa(items)
	return laterSubjects + path + count + "." + nuid.Next(), nats.Header{
		"Nats-Schedule":        {"@at " + time.Unix(0, at).UTC().Format(time.RFC3339)},
		"Nats-Schedule-Target": {dueSubjects + path + count},
	}
}
