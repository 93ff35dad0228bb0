// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"encoding/json"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/push"
)

// EarlierStreams returns the streams of a version without a log.
func EarlierStreams() []natsjs.StreamConfig {
	return []natsjs.StreamConfig{tasksStreamConfig(4 << 30), {
		Name: scheduledStreamName, Subjects: []string{"sluice.later.>", "sluice.due.>"}, Retention: natsjs.WorkQueuePolicy, AllowMsgSchedules: true, AllowDirect: true,
	}}
}

// EarlierTask returns a message of these streams with one task, which was rescheduled as often as it was
// attempted.
func EarlierTask(n *push.Notification, attempts int, due time.Time, receipt *push.Receipt) []byte {
	t := newTask(n)
	t.AttemptsStarted, t.Reschedules, t.Due, t.Receipt = attempts, attempts, due, receipt
	data, err := json.Marshal(t)
	if err != nil {
		panic(err)
	}
	return append(data, '\n')
}
