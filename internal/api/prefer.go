// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

// preferAsync reports whether the caller prefers not to wait for the verdict (RFC 7240, respond-async). Without a queue it is
// refused, rather than let a caller believe that it was done.
func (a *server) preferAsync(r *http.Request) (bool, *problem) {
	if !hasPreference(r, "respond-async") {
		return false, nil
	}
	if a.queue == nil {
		return false, &problem{kind: needsQueue, field: "Prefer",
			detail: "respond-async needs a queue; without it the answer waits for the provider's verdict"}
	}
	return true, nil
}

func hasPreference(r *http.Request, what string) bool {
	_, ok := preference(r, what)
	return ok
}

// preference returns the value of the one that has this name, if the request has it.
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

// maxWaitSeconds is as many seconds as a caller can mean in earnest.
const maxWaitSeconds = 1 << 20

// preferredWait is how long the caller is willing to wait for the verdict (RFC 7240 §4.3), 0 where nothing is said. A preference
// that makes no sense is passed over, as the RFC has it.
func preferredWait(r *http.Request) time.Duration {
	value, _ := preference(r, "wait")
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 1 || seconds > maxWaitSeconds {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// checkSendAt refuses a time to come where nobody keeps the notification until then.
func (a *server) checkSendAt(n *push.Notification, async bool) *problem {
	switch {
	case async || n.SendAt.IsZero() || !n.SendAt.After(time.Now()):
		return nil
	case a.queue == nil:
		return &problem{kind: needsQueue, field: "send_at", detail: "must not be in the future: scheduling needs a queue"}
	default:
		return invalid("send_at", "must not be in the future without the header Prefer: respond-async: the answer would wait until then")
	}
}
