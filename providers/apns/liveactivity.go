// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// liveActivity holds the members of a Live Activity's payload that are checked (Apple, "Starting
// and updating Live Activities with ActivityKit push notifications", read 2026-11-22). APNs accepts
// an invalid one; the device then drops the update without an error. So it must be checked before
// it is sent.
type liveActivity struct {
	Timestamp  jsontext.Value `json:"timestamp"`
	Event      jsontext.Value `json:"event"`
	State      jsontext.Value `json:"content-state"`
	Type       jsontext.Value `json:"attributes-type"`
	Attributes jsontext.Value `json:"attributes"`
	Alert      jsontext.Value `json:"alert"`
	Dismissal  jsontext.Value `json:"dismissal-date"`
	Stale      jsontext.Value `json:"stale-date"`
	Relevance  jsontext.Value `json:"relevance-score"`
}

// checkLiveActivity returns an error for a Live Activity's payload that a device would drop. A
// broadcast cannot start an activity.
func checkLiveActivity(n *push.Notification) error {
	var in struct {
		APS liveActivity `json:"aps"`
	}
	if json.Unmarshal(n.APNs.Payload, &in) != nil {
		return invalid("apns.payload", invalidPayload, "a JSON object in UTF-8 without repeated names, its aps an object")
	}
	a := &in.APS
	event, toChannel := string(a.Event), n.Kind() == push.ToChannel
	switch {
	case !isTimestamp(a.Timestamp):
		return invalidMember("timestamp", "an integer: seconds since 1970")
	case toChannel && event == `"start"`:
		return invalidMember("event", "update or end: a broadcast cannot start an activity")
	case event != `"start"` && event != `"update"` && event != `"end"`:
		return invalidMember("event", "start, update or end")
	case event != `"end"` && a.State.Kind() != '{', !isKindOrAbsent(a.State, '{'):
		return invalidMember("content-state", "an object")
	case event == `"start"`:
		if err := a.checkStart(); err != nil {
			return err
		}
	}
	return a.checkDates()
}

func invalidMember(member, allowed string) error {
	return invalid("apns.payload.aps."+member, invalidPayload, allowed+", for push type liveactivity")
}

func (a *liveActivity) checkStart() error {
	switch {
	case a.Type.Kind() != '"':
		return invalidMember("attributes-type", "the name of the type, to start an activity")
	case a.Attributes.Kind() != '{':
		return invalidMember("attributes", "an object, to start an activity")
	case a.Alert.Kind() != '{':
		return invalidMember("alert", "an object, to start an activity")
	}
	return nil
}

func (a *liveActivity) checkDates() error {
	for _, m := range [...]struct {
		name  string
		value jsontext.Value
	}{{"dismissal-date", a.Dismissal}, {"stale-date", a.Stale}, {"relevance-score", a.Relevance}} {
		if !isKindOrAbsent(m.value, '0') {
			return invalidMember(m.name, "a number")
		}
	}
	return nil
}

// isKindOrAbsent reports whether v is absent or of that kind.
func isKindOrAbsent(v jsontext.Value, kind jsontext.Kind) bool { return v == nil || v.Kind() == kind }

func isTimestamp(v jsontext.Value) bool {
	return v.Kind() == '0' && len(v) <= 11 && allBytes(string(v), isDigit)
}
