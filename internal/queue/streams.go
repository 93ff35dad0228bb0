// SPDX-License-Identifier: Apache-2.0

package queue

// Streams returns the names of the streams in which tasks wait, for who audits them.
func Streams() []string { return []string{tasksStreamName, scheduledStreamName} }
