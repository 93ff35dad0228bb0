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
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// The streams. Their subjects end in how many tasks a chunk holds, so that the engine can count what waits:
//
//	sluice.task.LANE.APP.COUNT        to be sent now; gone with its ack
//	sluice.later.LANE.APP.COUNT.NUID  to be sent at a time: the engine itself makes of it, when the time has come, …
//	sluice.due.LANE.APP.COUNT         … one like a task, in the same stream
const (
	tasksStreamName     = "SLUICE_TASKS"
	scheduledStreamName = "SLUICE_LATER"

	taskSubjects      = "sluice.task."
	scheduledSubjects = "sluice.later."
	dueSubjects       = "sluice.due."
)

// streamHandle is one of the streams with its writer.
type streamHandle struct {
	stream  natsjs.Stream
	writer  *jetstream.Writer
	lastSeq atomic.Uint64 // the last chunk that Accept knows of
}

// advance takes note of a chunk.
func (k *streamHandle) advance(seq uint64) {
	for now := k.lastSeq.Load(); seq > now && !k.lastSeq.CompareAndSwap(now, seq); now = k.lastSeq.Load() {
	}
}

func newStreamHandle(ctx context.Context, e *jetstream.Engine, cfg natsjs.StreamConfig, address func(string, int) (string, nats.Header)) (*streamHandle, error) {
	stream, err := e.Stream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	k := &streamHandle{stream: stream, writer: e.Writer(cfg.Name, true)}
	k.writer.MapSubject = address
	return k, nil
}

// tasksStreamConfig refuses what it has no room for, rather than forget what it holds.
func tasksStreamConfig(maxBytes int64) natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: tasksStreamName, Subjects: []string{taskSubjects + ">"}, Retention: natsjs.WorkQueuePolicy,
		Discard: natsjs.DiscardNew, MaxBytes: maxBytes, AllowDirect: true,
	}
}

// scheduledStreamConfig has no bound of its own, for a stream with schedules cannot refuse; Accept looks at its size instead.
func scheduledStreamConfig() natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: scheduledStreamName, Subjects: []string{scheduledSubjects + ">", dueSubjects + ">"}, Retention: natsjs.WorkQueuePolicy,
		AllowMsgSchedules: true, AllowDirect: true,
	}
}

// partition is what one flow drinks from: the chunks of one app and lane in one of the streams.
type partition struct {
	stream string
	lane   push.Lane
	app    string
}

// subject is that of the source's chunks, without their count.
func (s partition) subject() string {
	if s.stream == scheduledStreamName {
		return dueSubjects + s.path()
	}
	return taskSubjects + s.path()
}

// path is lane and app. A dot would part the subject, and no app's name holds a percent sign.
func (s partition) path() string { return string(s.lane) + "." + strings.ReplaceAll(s.app, ".", "%") }

// consumerName is the name of the source's consumer, which may hold no dot.
func (s partition) consumerName() string { return strings.ReplaceAll(s.path(), ".", "-") }

// parseSubject reads a subject of the stream: whose chunks it tells of, and how many tasks each holds.
func parseSubject(stream, subject string) (s partition, tasks int, ok bool) {
	parts := strings.Split(subject, ".")
	if len(parts) != 5 {
		return partition{}, 0, false
	}
	tasks, err := strconv.Atoi(parts[4])
	return partition{stream: stream, lane: push.Lane(parts[2]), app: strings.ReplaceAll(parts[3], "%", ".")}, tasks, err == nil
}

func mapTaskSubject(subject string, items int) (string, nats.Header) {
	return subject + "." + strconv.Itoa(items), nil
}

// destination is where the tasks of one source are put that are due at once, or in one second: what one chunk may hold.
type destination struct {
	partition
	due int64 // the second, in nanoseconds of Unix time; 0 is at once
}

// subject is what chunks are appended under: for a time, PATH@NANOSECONDS.
func (s destination) subject() string {
	if s.due == 0 {
		return s.partition.subject()
	}
	return s.path() + "@" + strconv.FormatInt(s.due, 10)
}

// mapScheduledSubject has the engine publish the chunk when its time has come. The engine's client would cut the time to seconds;
// ours is whole already, and each task waits for the rest of its time in the flow.
func mapScheduledSubject(subject string, items int) (string, nats.Header) {
	path, nanos, _ := strings.Cut(subject, "@")
	at, _ := strconv.ParseInt(nanos, 10, 64) // shelf.subject wrote it
	count := "." + strconv.Itoa(items)
	return scheduledSubjects + path + count + "." + nuid.Next(), nats.Header{
		"Nats-Schedule":        {"@at " + time.Unix(0, at).UTC().Format(time.RFC3339)},
		"Nats-Schedule-Target": {dueSubjects + path + count},
	}
}
