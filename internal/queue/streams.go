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

// The streams. A subject ends in the number of tasks in its messages, so that the server can count
// tasks:
//
//	sluice.task.LANE.APP.COUNT        tasks to send immediately
//	sluice.later.LANE.APP.COUNT.NUID  scheduled tasks; at their time the server republishes them under
//	sluice.due.LANE.APP.COUNT         in the same stream
const (
	tasksStreamName     = "SLUICE_TASKS"
	scheduledStreamName = "SLUICE_LATER"

	taskSubjects      = "sluice.task."
	scheduledSubjects = "sluice.later."
	dueSubjects       = "sluice.due."
)

// Streams returns the names of the streams that hold tasks, for audits.
func Streams() []string { return []string{tasksStreamName, scheduledStreamName} }

// streamHandle is a stream and its writer.
type streamHandle struct {
	stream  natsjs.Stream
	writer  *jetstream.Writer
	usage   usage
	lastSeq atomic.Uint64 // the last message when the queue was opened, or that Accept wrote later
}

// advance raises lastSeq to seq.
func (s *streamHandle) advance(seq uint64) {
	for old := s.lastSeq.Load(); seq > old && !s.lastSeq.CompareAndSwap(old, seq); old = s.lastSeq.Load() {
	}
}

// handle returns the stream of a partition.
func (q *clusterQueue) handle(p partition) *streamHandle {
	if p.stream == scheduledStreamName {
		return q.scheduled
	}
	return q.tasks
}

func newStreamHandle(ctx context.Context, e *jetstream.Engine, cfg natsjs.StreamConfig, mapSubject func(string, int) (string, nats.Header)) (*streamHandle, error) {
	stream, err := e.Stream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	s := &streamHandle{stream: stream, writer: e.Writer(cfg.Name)}
	s.writer.MapSubject = mapSubject
	s.advance(stream.CachedInfo().State.LastSeq)
	return s, nil
}

// tasksStreamConfig returns a stream that refuses new messages when it is full.
func tasksStreamConfig(maxBytes int64) natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: tasksStreamName, Subjects: []string{taskSubjects + ">"}, Retention: natsjs.WorkQueuePolicy,
		Discard: natsjs.DiscardNew, MaxBytes: maxBytes, AllowDirect: true,
	}
}

// scheduledStreamConfig returns a stream without a size limit, because JetStream does not support
// DiscardNew together with schedules. Accept limits its size.
func scheduledStreamConfig() natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name: scheduledStreamName, Subjects: []string{scheduledSubjects + ">", dueSubjects + ">"}, Retention: natsjs.WorkQueuePolicy,
		AllowMsgSchedules: true, AllowDirect: true,
	}
}

// partition is the unit of consumption: the messages of one app and lane in one stream.
type partition struct {
	stream string
	lane   push.Lane
	app    string
}

// subject returns the subject of the partition's messages without the count.
func (p partition) subject() string {
	if p.stream == scheduledStreamName {
		return dueSubjects + p.path()
	}
	return taskSubjects + p.path()
}

// path returns lane and app as subject tokens. It replaces dots in app names by percent signs,
// which app names cannot contain.
func (p partition) path() string { return string(p.lane) + "." + strings.ReplaceAll(p.app, ".", "%") }

// consumerName returns the name of the partition's consumer, which cannot contain dots.
func (p partition) consumerName() string { return strings.ReplaceAll(p.path(), ".", "-") }

// parseSubject returns the partition of a subject and the number of tasks in each of its messages.
func parseSubject(stream, subject string) (p partition, tasks int, ok bool) {
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

// destination identifies tasks that can share a message: those of one partition that are due
// immediately or in the same second.
type destination struct {
	partition
	due int64 // the second, in nanoseconds since the Unix epoch; 0 means immediately
}

// subject returns the subject for Writer.Append: PATH@NANOSECONDS for scheduled tasks. See
// mapScheduledSubject.
func (d destination) subject() string {
	if d.due == 0 {
		return d.partition.subject()
	}
	return d.path() + "@" + strconv.FormatInt(d.due, 10)
}

// mapScheduledSubject makes the server publish the message at its due second. A consumer waits for
// the rest of each task's due time.
func mapScheduledSubject(subject string, items int) (string, nats.Header) {
	path, nanos, _ := strings.Cut(subject, "@")
	due, _ := strconv.ParseInt(nanos, 10, 64) // written by destination.subject
	count := "." + strconv.Itoa(items)
	return scheduledSubjects + path + count + "." + nuid.Next(), nats.Header{
		"Nats-Schedule":        {"@at " + time.Unix(0, due).UTC().Format(time.RFC3339)},
		"Nats-Schedule-Target": {dueSubjects + path + count},
	}
}
