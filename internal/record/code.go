// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// The values of enumerations by their number on disk, from 1. Others are written as text.
var (
	statuses = []string{
		string(push.StatusAccepted), string(push.StatusUnregistered), string(push.StatusRefused), string(push.StatusThrottled),
		string(push.StatusUnauthorized), string(push.StatusUnavailable), string(push.StatusUnknown), string(push.StatusExpired),
		string(push.StatusQueued), string(push.StatusScheduled), string(push.StatusSending), string(push.StatusCancelled),
	}
	platforms = []string{string(push.APNs), string(push.FCM), string(push.WebPush)}
	lanes     = []string{string(push.LaneCritical), string(push.LaneNormal), string(push.LaneBulk)}
)

// otherValue is the number of a value that is written as text; 0 is that of the empty value.
const otherValue = 255

// writer appends values.
type writer struct{ b []byte }

func (w *writer) number(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

func (w *writer) text(s string) { w.b = append(binary.AppendUvarint(w.b, uint64(len(s))), s...) }

func (w *writer) bytes(data []byte) {
	w.b = append(binary.AppendUvarint(w.b, uint64(len(data))), data...)
}

func (w *writer) enum(value string, values []string) {
	if value == "" {
		w.b = append(w.b, 0)
		return
	}
	for i, v := range values {
		if v == value {
			w.b = append(w.b, byte(i+1))
			return
		}
	}
	w.b = append(w.b, otherValue)
	w.text(value)
}

// The fields that a receipt, an attempt and a notification have, as bits.
const (
	receiptReason = 1 << iota
	receiptState
	receiptField
	receiptProviderID
	receiptRetryAfter
	receiptDeadSince
	receiptForgetToken
	receiptWarnings
	receiptTargetIndex
	receiptOwnProviderID // the provider's ID is that of the notification
	receiptReplaced
)

const (
	attemptReason = 1 << iota
	attemptEnvironment
	attemptHTTP
)

const (
	hasTitle = 1 << iota
	hasSubtitle
	hasBody
	hasImage
	hasBadge
	hasSound
	hasData
	hasPriority
	hasCollapseKey
	hasTTL
	hasExactSendAt
	hasOnUnknown
	hasRetry
	isStrict
	hasAPNs
	hasFCM
	hasWebPush
	hasHexToken // a token of hex digits in lower case
	hasSubscription
	hasOtherTarget
	hasLane
)

func bits(set ...bool) (mask uint64) {
	for i, is := range set {
		if is {
			mask |= 1 << i
		}
	}
	return mask
}

// receipt appends what the JSON form of a receipt has.
func (w *writer) receipt(r *push.Receipt, h *Header) {
	own := isText(h.ID, r.ProviderID)
	has := bits(
		r.Reason != "", r.State != "", r.Field != "" || r.Detail != "", r.ProviderID != "" && !own, r.RetryAfter > 0, !r.DeadSince.IsZero(),
		r.ForgetToken, len(r.Warnings) > 0, r.TargetIndex != nil, own, r.Replaced != nil,
	)
	w.number(has)
	w.b = append(w.b, byte(r.Verdict))
	if has&receiptReason != 0 {
		w.text(r.Reason)
	}
	if has&receiptState != 0 {
		w.enum(string(r.State), statuses)
	}
	if has&receiptField != 0 {
		w.text(r.Field)
		w.text(r.Detail)
	}
	if has&receiptProviderID != 0 {
		w.text(r.ProviderID)
	}
	if has&receiptRetryAfter != 0 {
		w.number(uint64(math.Round(r.RetryAfter.Seconds() * 1000)))
	}
	if has&receiptDeadSince != 0 {
		w.b = binary.AppendVarint(w.b, r.DeadSince.UnixNano())
	}
	if has&receiptWarnings != 0 {
		w.number(uint64(len(r.Warnings)))
		for _, warning := range r.Warnings {
			w.text(warning.Field)
			w.text(warning.Detail)
		}
	}
	if has&receiptTargetIndex != 0 {
		w.number(uint64(*r.TargetIndex))
	}
	if has&receiptReplaced != 0 {
		_ = w.json(r.Replaced) // which always has a JSON form
	}
	w.number(uint64(len(r.Attempts)))
	for i := range r.Attempts {
		w.attempt(&r.Attempts[i], h.At)
	}
}

// isText reports whether text is the text of id.
func isText(id uuid.UUID, text string) bool {
	if len(text) != 36 || strings.ToLower(text) != text {
		return false
	}
	parsed, err := uuid.Parse(text)
	return err == nil && parsed == id
}

func (w *writer) attempt(a *push.Attempt, at time.Time) {
	has := bits(a.Reason != "", a.Environment != "", a.HTTP != 0)
	w.b = append(w.b, byte(has), byte(a.Verdict))
	w.text(a.Endpoint)
	w.b = binary.AppendVarint(w.b, at.UnixMilli()-a.Started.UnixMilli())
	w.b = binary.AppendVarint(w.b, int64(math.Round(float64(a.Took)/float64(time.Microsecond))))
	if has&attemptReason != 0 {
		w.text(a.Reason)
	}
	if has&attemptEnvironment != 0 {
		w.text(string(a.Environment))
	}
	if has&attemptHTTP != 0 {
		w.number(uint64(a.HTTP))
	}
}

// notification appends what the JSON form of a notification has, and AcceptedAt.
func (w *writer) notification(n *push.Notification, at time.Time) error {
	token := make([]byte, 0, 64)
	if n.Token != "" && n.Kind() == push.ToToken {
		var err error
		if token, err = hex.AppendDecode(token, []byte(n.Token)); err != nil || hex.EncodeToString(token) != n.Token {
			token = nil
		}
	}
	has := bits(
		n.Title != "", n.Subtitle != "", n.Body != "", n.Image != "", n.Badge != nil, n.Sound != "", len(n.Data) > 0, n.Priority != "",
		n.CollapseKey != "", n.TTL != nil, !n.SendAt.IsZero(), n.OnUnknown != "", n.Retry != nil, n.Strict, n.APNs != nil, n.FCM != nil, n.WebPush != nil,
		len(token) > 0, n.Subscription != nil, len(token) == 0 && n.Subscription == nil, n.Lane != "",
	)
	w.number(has)
	w.b = binary.AppendVarint(w.b, at.UnixMilli()-n.AcceptedAt.UnixMilli())
	if len(token) > 0 {
		w.bytes(token)
	}
	var errs []error
	if has&hasOtherTarget != 0 {
		errs = append(errs, w.json(&n.Target))
	}
	if has&hasSubscription != 0 {
		errs = append(errs, w.subscription(n.Subscription))
	}
	for i, s := range [...]string{n.Title, n.Subtitle, n.Body, n.Image} {
		if has&(hasTitle<<i) != 0 {
			w.text(s)
		}
	}
	if has&hasBadge != 0 {
		w.b = binary.AppendVarint(w.b, int64(*n.Badge))
	}
	if has&hasSound != 0 {
		w.text(n.Sound)
	}
	if has&hasData != 0 {
		w.number(uint64(len(n.Data)))
		for _, key := range slices.Sorted(maps.Keys(n.Data)) {
			w.text(key)
			w.text(n.Data[key])
		}
	}
	for _, f := range [...]struct {
		bit  uint64
		text string
	}{{hasPriority, string(n.Priority)}, {hasCollapseKey, n.CollapseKey}, {hasOnUnknown, string(n.OnUnknown)}} {
		if has&f.bit != 0 {
			w.text(f.text)
		}
	}
	if has&hasTTL != 0 {
		w.number(uint64(*n.TTL))
	}
	if has&hasExactSendAt != 0 {
		w.b = binary.AppendVarint(w.b, n.SendAt.UnixNano())
	}
	if has&hasRetry != 0 {
		w.number(uint64(n.Retry.Attempts))
	}
	return errors.Join(append(errs, w.blocks(n))...)
}

// subscription appends a subscription. Senders with many of them all have this target.
func (w *writer) subscription(s *push.Subscription) error {
	w.text(s.Endpoint)
	w.text(s.Keys.P256dh)
	w.text(s.Keys.Auth)
	if s.ExpirationTime == nil || math.IsNaN(*s.ExpirationTime) || math.IsInf(*s.ExpirationTime, 0) {
		w.bytes(nil)
		return nil
	}
	return w.json(*s.ExpirationTime)
}

// blocks appends the blocks of the providers.
func (w *writer) blocks(n *push.Notification) (err error) {
	if n.APNs != nil {
		err = w.json(n.APNs)
	}
	if n.FCM != nil {
		err = errors.Join(err, w.json(n.FCM))
	}
	if n.WebPush != nil {
		err = errors.Join(err, w.json(n.WebPush))
	}
	return err
}

// tail appends the trace context, as the bytes of its IDs and flags and its state, the tags, and the length
// of all that. It is at the end of the record, where earlier versions do not read, and can be found
// without the body.
func (w *writer) tail(t *push.TraceContext, tags []string) {
	start := len(w.b)
	ids := make([]byte, 0, traceBytes)
	if t.TraceParent != "" {
		for part := range strings.SplitSeq(strings.TrimPrefix(t.TraceParent, traceVersion), "-") {
			ids, _ = hex.AppendDecode(ids, []byte(part)) // push.ParseTraceParent has checked it
		}
	}
	w.bytes(ids)
	w.text(t.TraceState)
	for _, tag := range tags {
		w.text(tag)
	}
	w.b = binary.LittleEndian.AppendUint16(w.b, uint16(len(w.b)-start))
}

// traceVersion starts a traceparent. It is followed by a trace ID, a span ID and flags, which are traceBytes.
const (
	traceVersion = "00-"
	traceBytes   = 16 + 8 + 1
)

// json appends the JSON form of v. It does not escape <, > and &, so that payloads keep their size.
func (w *writer) json(v any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	w.bytes(bytes.TrimSuffix(text.Bytes(), []byte{'\n'}))
	return err
}

// reader reads what a writer has written. After a failure it sets bad and returns zero values.
type reader struct {
	b    []byte
	bad  bool
	app  string // of the last header
	tail []byte // of the record, which is after b
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	taken := r.b[:n:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) byte() byte {
	b := r.take(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) signed() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) int() int { return int(r.number()) }

func (r *reader) bytes() []byte { return r.take(r.number()) }

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) millis() time.Time { return time.UnixMilli(int64(r.number())).UTC() }

func (r *reader) enum(values []string) string {
	switch n := int(r.byte()); {
	case n == 0:
		return ""
	case n <= len(values):
		return values[n-1]
	case n == otherValue:
		return r.text()
	default:
		r.bad = true
		return ""
	}
}

// takeTail removes the tail from b, and returns the tags in it.
func (r *reader) takeTail() (tags []string) {
	const lengthLen = 2
	end := len(r.b) - lengthLen
	start := -1
	if end >= 0 {
		start = end - int(binary.LittleEndian.Uint16(r.b[end:]))
	}
	if start < 0 {
		r.b, r.bad = nil, true
		return nil
	}
	list := reader{b: r.b[start:end]}
	for range 2 { // of the trace context
		list.bytes()
	}
	for len(list.b) > 0 {
		tags = append(tags, list.text())
	}
	r.b, r.tail, r.bad = r.b[:start], r.b[start:], r.bad || list.bad
	return tags
}

func (r *reader) receipt(h *Header) *push.Receipt {
	has := r.number()
	p := &push.Receipt{ID: h.ID.String()}
	p.Verdict = push.Verdict(r.byte())
	if has&receiptReason != 0 {
		p.Reason = r.text()
	}
	if has&receiptState != 0 {
		p.State = push.Status(r.enum(statuses))
	}
	if has&receiptField != 0 {
		p.Field, p.Detail = r.text(), r.text()
	}
	switch {
	case has&receiptProviderID != 0:
		p.ProviderID = r.text()
	case has&receiptOwnProviderID != 0:
		p.ProviderID = p.ID
	}
	if has&receiptRetryAfter != 0 {
		p.RetryAfter = time.Duration(r.number()) * time.Millisecond
	}
	if has&receiptDeadSince != 0 {
		p.DeadSince = time.Unix(0, r.signed()).UTC()
	}
	p.ForgetToken = has&receiptForgetToken != 0
	if has&receiptWarnings != 0 {
		for range r.count() {
			p.Warnings = append(p.Warnings, push.Warning{Field: r.text(), Detail: r.text()})
		}
	}
	if has&receiptTargetIndex != 0 {
		index := r.int()
		p.TargetIndex = &index
	}
	if has&receiptReplaced != 0 {
		p.Replaced = new(push.Target)
		r.json(p.Replaced)
	}
	for range r.count() {
		p.Attempts = append(p.Attempts, r.attempt(h.At))
	}
	return p
}

// count reads the number of items of a list, each of which has at least one byte.
func (r *reader) count() uint64 {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) attempt(at time.Time) (a push.Attempt) {
	has := r.byte()
	a.Verdict = push.Verdict(r.byte())
	a.Endpoint = r.text()
	a.Started = time.UnixMilli(at.UnixMilli() - r.signed()).UTC()
	a.Took = time.Duration(r.signed()) * time.Microsecond
	if has&attemptReason != 0 {
		a.Reason = r.text()
	}
	if has&attemptEnvironment != 0 {
		a.Environment = push.Environment(r.text())
	}
	if has&attemptHTTP != 0 {
		a.HTTP = r.int()
	}
	return a
}

func (r *reader) notification(h *Header) *push.Notification {
	n := &push.Notification{ID: h.ID.String(), App: h.App, Platform: h.Platform, KeyHash: h.KeyHash, BodyHash: h.BodyHash, Tags: h.Tags}
	has := r.number()
	n.AcceptedAt = time.UnixMilli(h.At.UnixMilli() - r.signed()).UTC()
	r.target(n, has)
	for i, s := range [...]*string{&n.Title, &n.Subtitle, &n.Body, &n.Image} {
		if has&(hasTitle<<i) != 0 {
			*s = r.text()
		}
	}
	if has&hasBadge != 0 {
		badge := int(r.signed())
		n.Badge = &badge
	}
	if has&hasSound != 0 {
		n.Sound = r.text()
	}
	if has&hasData != 0 {
		count := r.count()
		n.Data = make(map[string]string, count)
		for range count {
			key := r.text()
			n.Data[key] = r.text()
		}
	}
	if has&hasPriority != 0 {
		n.Priority = push.Priority(r.text())
	}
	if has&hasCollapseKey != 0 {
		n.CollapseKey = r.text()
	}
	if has&hasOnUnknown != 0 {
		n.OnUnknown = push.OnUnknown(r.text())
	}
	if has&hasTTL != 0 {
		ttl := push.Duration(r.number())
		n.TTL = &ttl
	}
	if has&hasExactSendAt != 0 {
		n.SendAt = time.Unix(0, r.signed()).UTC()
	}
	if has&hasRetry != 0 {
		n.Retry = &push.Retry{Attempts: r.int()}
	}
	if has&hasLane != 0 {
		n.Lane = h.Lane
	}
	n.Strict = has&isStrict != 0
	r.blocks(n, has)
	return n
}

func (r *reader) target(n *push.Notification, has uint64) {
	if has&hasHexToken != 0 {
		n.Token = hex.EncodeToString(r.bytes())
	}
	if has&hasOtherTarget != 0 {
		r.json(&n.Target)
	}
	if has&hasSubscription == 0 {
		return
	}
	s := &push.Subscription{Endpoint: r.text(), Keys: push.SubscriptionKeys{P256dh: r.text(), Auth: r.text()}}
	if text := r.bytes(); len(text) > 0 {
		s.ExpirationTime = new(float64)
		r.bad = json.Unmarshal(text, s.ExpirationTime) != nil || r.bad
	}
	n.Subscription = s
}

func (r *reader) blocks(n *push.Notification, has uint64) {
	if has&hasAPNs != 0 {
		n.APNs = new(push.APNsBlock)
		r.json(n.APNs)
	}
	if has&hasFCM != 0 {
		n.FCM = new(push.FCMBlock)
		r.json(n.FCM)
	}
	if has&hasWebPush != 0 {
		n.WebPush = new(push.WebPushBlock)
		r.json(n.WebPush)
	}
}

// trace returns the trace context in the tail.
func (r *reader) trace() (t push.TraceContext) {
	tail := reader{b: r.tail}
	ids := tail.bytes()
	if t.TraceState = tail.text(); len(ids) == 0 {
		return t
	}
	if len(ids) != traceBytes {
		r.bad = true
		return push.TraceContext{}
	}
	t.TraceParent = traceVersion + hex.EncodeToString(ids[:16]) + "-" + hex.EncodeToString(ids[16:24]) + "-" + hex.EncodeToString(ids[24:])
	return t
}

func (r *reader) json(v any) {
	r.bad = json.Unmarshal(r.bytes(), v) != nil || r.bad
}
