// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

// preferAsync reports whether the client prefers an asynchronous response (RFC 7240,
// respond-async). Without a queue this is a problem, because 202 would mean that the notification is
// stored.
func (s *server) preferAsync(r *http.Request) (bool, *problem) {
	if !hasPreference(r, "respond-async") {
		return false, nil
	}
	if s.queue == nil {
		return false, &problem{kind: needsQueue, field: "Prefer",
			detail: "respond-async needs a queue; without a queue, the response waits for the verdict"}
	}
	return true, nil
}

func hasPreference(r *http.Request, name string) bool {
	_, ok := preference(r, name)
	return ok
}

// preference returns the value of the preference with this name, if the request has it.
func preference(r *http.Request, what string) (value string, ok bool) {
	for _, line := range r.Header["Prefer"] {
		for preference := range strings.SplitSeq(line, ",") {
			preference, _, _ = strings.Cut(preference, ";")
			name, value, _ := strings.Cut(preference, "=")
			if strings.EqualFold(strings.TrimSpace(name), what) {
				return strings.Trim(strings.TrimSpace(value), `"`), true
			}
		}
	}
	return "", false
}

// maxWaitSeconds is the largest value of wait that is not ignored.
const maxWaitSeconds = 1 << 20

// preferredWait returns how long the client waits for the verdict (RFC 7240 §4.3), or 0 if it does
// not say. Invalid preferences are ignored, as the RFC requires.
func preferredWait(r *http.Request) time.Duration {
	value, ok := preference(r, "wait")
	if !ok {
		return 0
	}
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 1 || seconds > maxWaitSeconds {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// checkMode rejects what does not fit to the kind of the request: a dry run that would be queued, and a
// send_at in the future for requests that are not queued.
func (s *server) checkMode(n *push.Notification, async bool) *problem {
	switch {
	case async && n.DryRun:
		return invalid("dry_run", "must be false with the header Prefer: respond-async, because nothing would be queued; without the header, the response has the result")
	case async || n.SendAt.IsZero() || !n.SendAt.After(time.Now()):
		return nil
	case s.queue == nil:
		return &problem{kind: needsQueue, field: "send_at", detail: "must not be in the future: scheduling needs a queue"}
	case n.DryRun:
		return nil
	default:
		return invalid("send_at", "must not be in the future without the header Prefer: respond-async, because the response would wait until then")
	}
}
