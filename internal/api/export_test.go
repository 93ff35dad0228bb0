// SPDX-License-Identifier: Apache-2.0

package api

import (
	"time"

	"github.com/sluice-push/sluice/push"
)

// IDGenerator generates UUIDs.
type IDGenerator struct{ idGenerator }

// Next returns the next UUID.
func (g *IDGenerator) Next(now time.Time) string { return g.next(now) }

// FastDecode returns nil unless the fast decoder decodes text.
func FastDecode(text []byte, key *string) *push.Notification { return fastDecode(text, key) }

// StrictDecode decodes text with the strict decoder only. detail is that of the problem.
func StrictDecode(text []byte) (n *push.Notification, detail string) {
	n, _, p := strictDecode(text)
	return n, p.detailOf()
}

// StrictDecodeItem is StrictDecode for an item of a batch.
func StrictDecodeItem(text []byte) (n *push.Notification, key, detail string) {
	n, _, key, p := strictDecodeItem(text)
	return n, key, p.detailOf()
}

// Check returns the detail of the problem that follows the decoding of n.
func Check(n *push.Notification) string { return check(n, nil).detailOf() }

func (p *problem) detailOf() string {
	if p == nil {
		return ""
	}
	return p.field + " " + p.detail
}

// TargetLists are the lists of targets of a notification.
type TargetLists = targetLists
