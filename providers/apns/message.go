// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

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
		return contentOfPayload(n)
	}
	shown := n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Badge != nil || n.Sound != "" || n.Image != ""
	return content{visible: shown, silent: !shown && len(n.Data) > 0}, nil
}

// contentOfPayload returns the content of a raw payload. It checks that the payload is valid JSON,
// without duplicate names or invalid UTF-8, and warns about what it does not know in aps: APNs
// accepts everything, and a device ignores what it does not know.
func contentOfPayload(n *push.Notification) (content, error) {
	raw := n.APNs.Payload
	var in struct {
		APS aps `json:"aps"`
	}
	if jsontext.Value(raw).Kind() != '{' || json.Unmarshal(raw, &in) != nil {
		return content{}, invalid("apns.payload", invalidPayload, "a JSON object in UTF-8 without duplicate names, with an object as aps")
	}
	for _, member := range in.APS.unknown {
		if err := n.Warn(memberPath("apns.payload.aps", member), "absent: the known members of aps are "+strings.Join(knownMembers, ", ")); err != nil {
			return content{}, err
		}
	}
	if in.APS.level != nil {
		if err := unknownName(n, "interruption-level", in.APS.level, "passive, active, time-sensitive or critical"); err != nil {
			return content{}, err
		}
	}
	return in.APS.content(), nil
}

// aps is what this package reads of a payload's aps. null is the same as absent.
type aps struct {
	visible, contentAvailable, liveActivity bool

	unknown []string       // members
	level   jsontext.Value // an unknown interruption-level, or nil
}

func (a *aps) content() content {
	return content{visible: a.visible, silent: !a.visible && a.contentAvailable, liveActivity: a.liveActivity}
}

// knownMembers are the members of aps: Apple, "Generating a remote notification", and for the last
// ones the documentation of Live Activities, widgets and web sites, read 2026-11-22.
var knownMembers = []string{
	"alert", "badge", "sound", "thread-id", "category", "content-available", "mutable-content", "target-content-id",
	"interruption-level", "relevance-score", "filter-criteria", "stale-date", "content-state", "timestamp", "event",
	"dismissal-date", "attributes-type", "attributes", "input-push-token", "input-push-channel", "content-changed", "url-args",
}

// UnmarshalJSONFrom reads an object or null.
func (a *aps) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	switch in.PeekKind() {
	case 'n':
		return in.SkipValue()
	case '{':
	default:
		return errors.New("not an object")
	}
	_, err := in.ReadToken()
	for err == nil && in.PeekKind() == '"' {
		var name jsontext.Token
		if name, err = in.ReadToken(); err == nil {
			err = a.readMember(in, name.String())
		}
	}
	if err == nil {
		_, err = in.ReadToken()
	}
	return err
}

func (a *aps) readMember(in *jsontext.Decoder, name string) error {
	value, err := in.ReadValue()
	if err != nil {
		return err
	}
	isNull := value.Kind() == 'n'
	switch name {
	case "alert", "badge", "sound":
		a.visible = a.visible || !isNull && !isEmpty(value)
	case "content-available":
		a.contentAvailable = isOn(value)
	case "interruption-level":
		if !isNull && !slices.Contains(interruptionLevels[:], string(value)) {
			a.level = value.Clone()
		}
	}
	if !slices.Contains(knownMembers, name) {
		a.unknown = append(a.unknown, name)
	}
	a.liveActivity = a.liveActivity || !isNull && slices.Contains(push.LiveActivityMembers, name)
	return nil
}

// unknownName warns about a value of an enumeration in aps that this package does not know. It
// returns an error if v cannot be a value, such as a known one in upper case.
func unknownName(n *push.Notification, member string, v jsontext.Value, allowed string) error {
	field := "apns.payload.aps." + member
	if name, err := jsontext.AppendUnquote(nil, v); err != nil || !isName(string(name)) {
		return invalid(field, invalidPayload, allowed)
	}
	return n.Warn(field, allowed)
}

// interruptionLevels are the values of aps.interruption-level (Apple, "Generating a remote
// notification", read 2026-11-22). A device treats any other value as active, and APNs reports no
// error.
var interruptionLevels = [...]string{`"passive"`, `"active"`, `"time-sensitive"`, `"critical"`}

// isAbsent reports whether a JSON member does not exist or is null.
func isAbsent(v jsontext.Value) bool { return v == nil || v.Kind() == 'n' }

// isEmpty reports whether v is "" or {}. Some libraries write such an alert in a silent notification.
func isEmpty(v jsontext.Value) bool {
	return v.Kind() == '"' && len(v) == len(`""`) || v.Kind() == '{' && len(bytes.TrimSpace(v[1:len(v)-1])) == 0
}

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
