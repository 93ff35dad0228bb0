// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"strconv"

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
		return invalidMember("timestamp", "an integer: "+secondsSince1970)
	case toChannel && event == `"start"`:
		return invalidMember("event", "update or end: a broadcast cannot start an activity")
	case (event == `"start"` || event == `"update"`) && a.State.Kind() != '{', !isAbsent(a.State) && a.State.Kind() != '{':
		return invalidMember("content-state", "an object")
	case event == `"start"`:
		if err := a.checkStart(); err != nil {
			return err
		}
	case event != `"update"` && event != `"end"`:
		if err := unknownName(n, "event", a.Event, "start, update or end, for push type liveactivity"); err != nil {
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
	switch {
	case !isDateOrAbsent(a.Dismissal):
		return invalidMember("dismissal-date", "a number: "+secondsSince1970)
	case !isDateOrAbsent(a.Stale):
		return invalidMember("stale-date", "a number: "+secondsSince1970)
	case !isAbsent(a.Relevance) && a.Relevance.Kind() != '0':
		return invalidMember("relevance-score", "a number")
	}
	return nil
}

// secondsSince1970 is the format of dates. Milliseconds, which JavaScript's Date.now returns, are a
// common mistake: a device would read them as a date far in the future.
const secondsSince1970 = "seconds since 1970, not milliseconds"

// maxDate excludes milliseconds: in seconds it is the year 5138, in milliseconds 1973.
const maxDate = 1e11

func isDateOrAbsent(v jsontext.Value) bool {
	if isAbsent(v) {
		return true
	}
	seconds, err := strconv.ParseFloat(string(v), 64)
	return v.Kind() == '0' && err == nil && seconds < maxDate
}

func isTimestamp(v jsontext.Value) bool {
	return v.Kind() == '0' && len(v) <= 11 && allBytes(string(v), isDigit)
}
