// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// The reasons of an invalid notification. A receipt with one of them means that nothing was sent.
const (
	invalidTarget   = "InvalidTarget"
	invalidField    = "InvalidField"
	invalidHeader   = "InvalidHeader"
	invalidPayload  = "InvalidPayload"
	payloadEmpty    = "PayloadEmpty"
	payloadTooLarge = "PayloadTooLarge"
)

func invalid(field, reason, allowed string) error {
	return &push.FieldError{Field: field, Reason: reason, Allowed: allowed}
}

// checkTarget checks that the target is a device token in hex. Apple says that its length can vary,
// so this does not check it exactly; it makes sure that only a token can get into the request's
// path.
func checkTarget(t *push.Target) error {
	switch {
	case t.Kind() != push.ToToken:
		return invalid("token", invalidTarget, "set, or channel instead, and no other target, for APNs")
	case !isToken(t.Token):
		return invalid("token", invalidTarget, "an even number of hex digits, 2 to 200")
	}
	return nil
}

func isToken(s string) bool {
	return len(s) >= 2 && len(s) <= 200 && len(s)%2 == 0 && allBytes(s, isHex)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// allBytes reports whether allowed returns true for every byte of s.
func allBytes(s string, allowed func(byte) bool) bool {
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return true
}

// content is what the device does with a notification, as far as the push type depends on it.
type content struct {
	visible      bool // it has an alert, a badge or a sound
	silent       bool // content-available is on and it is not visible
	liveActivity bool // it has a member that only Live Activities have
}

// contentOf returns the content of n: that of its raw payload, or else of its common fields.
func contentOf(n *push.Notification) (content, error) {
	if n.APNs != nil && len(n.APNs.Payload) > 0 {
		return contentOfPayload(n.APNs.Payload)
	}
	shown := n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Badge != nil || n.Sound != "" || n.Image != ""
	return content{visible: shown, silent: !shown && len(n.Data) > 0}, nil
}

// contentOfPayload returns the content of a raw payload. It checks that the payload is valid JSON,
// without duplicate names or invalid UTF-8.
func contentOfPayload(raw []byte) (content, error) {
	var in struct {
		APS struct {
			Alert present `json:"alert"`
			Badge present `json:"badge"`
			Sound present `json:"sound"`

			Event          present `json:"event"`
			State          present `json:"content-state"`
			AttributesType present `json:"attributes-type"`
			Attributes     present `json:"attributes"`
			StaleDate      present `json:"stale-date"`
			DismissalDate  present `json:"dismissal-date"`

			ContentAvailable jsontext.Value `json:"content-available"`
			Level            jsontext.Value `json:"interruption-level"`
		} `json:"aps"`
	}
	if jsontext.Value(raw).Kind() != '{' || json.Unmarshal(raw, &in) != nil {
		return content{}, invalid("apns.payload", invalidPayload, "a JSON object in UTF-8 without duplicate names, with an object as aps")
	}
	aps := &in.APS
	if !isAbsent(aps.Level) && !slices.Contains(interruptionLevels[:], string(aps.Level)) {
		return content{}, invalid("apns.payload.aps.interruption-level", invalidPayload, "passive, active, time-sensitive or critical")
	}
	shown := bool(aps.Alert || aps.Badge || aps.Sound)
	return content{
		visible: shown, silent: !shown && isOn(aps.ContentAvailable),
		liveActivity: bool(aps.Event || aps.State || aps.AttributesType || aps.Attributes || aps.StaleDate || aps.DismissalDate),
	}, nil
}

// interruptionLevels are the values of aps.interruption-level (Apple, "Generating a remote
// notification", read 2026-11-22). A device treats any other value as active, and APNs reports no
// error.
var interruptionLevels = [...]string{`"passive"`, `"active"`, `"time-sensitive"`, `"critical"`}

// present is true if a JSON member exists with any value except null.
type present bool

// UnmarshalJSONFrom skips the value.
func (p *present) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	*p = in.PeekKind() != 'n'
	return in.SkipValue()
}

// isAbsent reports whether a JSON member does not exist or is null.
func isAbsent(v jsontext.Value) bool { return v == nil || v.Kind() == 'n' }

// isOn reports whether the value of content-available makes a device wake the app. Apple documents
// 1; many senders write true or "1".
func isOn(v jsontext.Value) bool {
	switch v.Kind() {
	case 't':
		return true
	case '"':
		return string(v) == `"1"`
	case '0':
		number, err := strconv.ParseFloat(string(v), 64)
		return err == nil && number != 0
	}
	return false
}

// payload returns the request's body: the raw payload unchanged, or one made from the common
// fields.
func payload(n *push.Notification, kind *pushType) ([]byte, error) {
	if n.APNs != nil && len(n.APNs.Payload) > 0 {
		return rawPayload(n.APNs.Payload, kind)
	}
	if kind.name == "liveactivity" {
		return nil, invalid("apns.payload", invalidPayload,
			"set for push type liveactivity: the common fields do not include aps.timestamp, aps.event and aps.content-state")
	}
	if err := checkFields(n); err != nil {
		return nil, err
	}
	text := commonPayload(n, kind)
	if text.InvalidField != "" {
		return nil, invalid(text.InvalidField, invalidField, "valid UTF-8")
	}
	if len(text.Bytes) > kind.limit {
		return nil, tooLarge(largestField(n), len(text.Bytes), kind)
	}
	return text.Bytes, nil
}

// rawPayload returns raw unchanged. If it exceeds the limit, rawPayload returns the same value in
// the shortest form: without whitespace, and with UTF-8 instead of \u escapes, which many JSON
// encoders write for every character outside ASCII.
func rawPayload(raw []byte, kind *pushType) ([]byte, error) {
	if len(raw) <= kind.limit {
		return raw, nil
	}
	tight := jsontext.Value(slices.Clone(raw))
	if err := tight.Format(); err != nil || len(tight) > kind.limit {
		return nil, tooLarge("apns.payload", len(tight), kind)
	}
	return tight, nil
}

func tooLarge(field string, size int, kind *pushType) error {
	return invalid(field, payloadTooLarge, fmt.Sprintf(
		"shorter: the payload has %d bytes; push type %s allows at most %d bytes", size, kind.name, kind.limit))
}

// largestField returns the common field that takes the most bytes of the payload.
func largestField(n *push.Notification) string {
	field, size := "data", 0
	for name, value := range n.Data {
		size += len(name) + len(value)
	}
	for _, f := range [...]struct{ name, value string }{
		{"body", n.Body}, {"title", n.Title}, {"subtitle", n.Subtitle}, {"image", n.Image}, {"sound", n.Sound},
	} {
		if len(f.value) > size {
			field, size = f.name, len(f.value)
		}
	}
	return field
}

// checkFields checks the common fields that have more rules than valid UTF-8.
func checkFields(n *push.Notification) error {
	if n.Badge != nil && *n.Badge < 0 {
		return invalid("badge", invalidField, "0 or more")
	}
	if n.Image != "" && !isImage(n.Image) {
		return invalid("image", invalidField, "an https URL")
	}
	if _, taken := n.Data["aps"]; taken {
		return invalid("data.aps", invalidField, "absent: APNs reserves aps; use the common fields or apns.payload")
	}
	if _, taken := n.Data["image"]; taken && n.Image != "" {
		return invalid("data.image", invalidField, "absent if image is set, which uses the same member of the payload")
	}
	return nil
}

func isImage(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

// commonPayload returns the payload made from the common fields.
func commonPayload(n *push.Notification, kind *pushType) jsonobj.Writer {
	o := jsonobj.Writer{Bytes: make([]byte, 0, sizeHint(n))}
	o.Open("")
	o.Open("aps")
	if n.Title != "" || n.Subtitle != "" || n.Body != "" {
		o.Open("alert")
		o.Text("title", n.Title, "title")
		o.Text("subtitle", n.Subtitle, "subtitle")
		o.Text("body", n.Body, "body")
		o.Close()
	}
	if n.Badge != nil {
		o.Number("badge", *n.Badge)
	}
	o.Text("sound", n.Sound, "sound")
	if kind.name == "background" {
		o.Number("content-available", 1)
	}
	if n.Image != "" {
		o.Number("mutable-content", 1)
	}
	o.Close()
	o.Text("image", n.Image, "image")
	o.Texts(n.Data, "data")
	o.Close()
	return o
}

// sizeHint estimates the size of the payload, so that one allocation is enough.
func sizeHint(n *push.Notification) int {
	size := 160 + len(n.Title) + len(n.Subtitle) + len(n.Body) + len(n.Sound) + len(n.Image)
	for name, value := range n.Data {
		size += len(name) + len(value) + len(`"":"",`)
	}
	return size
}
