// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// Limits of all notifications, whatever their platform. The limits of the providers are much lower.
const (
	maxDepth    = 32  // of objects and arrays in a raw block
	maxMembers  = 256 // of data, and of the headers of a raw block
	maxAttempts = 10  // the same as the operator's retry.attempts
)

// strict are the options of the strict decoder. It rejects unknown members, except those of a
// subscription.
var strict = strictjson.Options(json.UnmarshalFromFunc(unmarshalSubscription))

// unmarshalSubscription reads a subscription. It ignores unknown members: it is the result of
// PushSubscription.toJSON(), to which browsers may add members.
func unmarshalSubscription(in *jsontext.Decoder, s *push.Subscription) error {
	type fields push.Subscription // without this function
	return json.UnmarshalDecode(in, (*fields)(s), json.RejectUnknownMembers(false))
}

// single is the JSON form of a notification.
type single struct {
	push.Notification
	targetLists
	SendAt sendTime `json:"send_at"` // replaces that of Notification
}

// decode decodes one notification. The lists of targets are nil if it has one target. decode does not
// retain text.
func decode(text []byte) (*push.Notification, *targetLists, *problem) {
	if n := fastDecode(text, nil); n != nil {
		return n, nil, check(n, nil)
	}
	return strictDecode(text)
}

// strictDecode is decode for every form of a notification.
func strictDecode(text []byte) (*push.Notification, *targetLists, *problem) {
	in := new(single)
	if err := json.Unmarshal(text, in, strict); err != nil {
		return nil, nil, mapDecodeError(err, text)
	}
	return in.decoded()
}

// decoded returns the notification and the lists of its targets.
func (in *single) decoded() (*push.Notification, *targetLists, *problem) {
	in.Notification.SendAt = time.Time(in.SendAt)
	if in.targetLists.field() == "" {
		return &in.Notification, nil, check(&in.Notification, nil)
	}
	return &in.Notification, &in.targetLists, check(&in.Notification, &in.targetLists)
}

// item is the JSON form of a notification in a batch, with its own Idempotency-Key.
type item struct {
	single
	Key string `json:"idempotency_key"`
}

// decodeItem decodes a notification in a batch and returns it with its Idempotency-Key.
func decodeItem(text []byte) (*push.Notification, *targetLists, string, *problem) {
	var key string
	if n := fastDecode(text, &key); n != nil && validIdempotencyKey(key) {
		return n, nil, key, check(n, nil)
	}
	return strictDecodeItem(text)
}

// strictDecodeItem is decodeItem for every form of a notification.
func strictDecodeItem(text []byte) (*push.Notification, *targetLists, string, *problem) {
	in := new(item)
	if err := json.Unmarshal(text, in, strict); err != nil {
		return nil, nil, "", mapDecodeError(err, text)
	}
	if !validIdempotencyKey(in.Key) {
		return nil, nil, "", invalid("idempotency_key", idempotencyKeyRule)
	}
	n, lists, p := in.decoded()
	return n, lists, in.Key, p
}

// sendTime is the value of send_at. A relative time counts from when it is decoded.
type sendTime time.Time

// UnmarshalText parses an RFC 3339 time, or a plus sign and a duration.
func (s *sendTime) UnmarshalText(text []byte) error {
	if len(text) > 1 && text[0] == '+' {
		if wait, err := time.ParseDuration(string(text)); err == nil && isAlphanumeric(text[1]) {
			*s = sendTime(time.Now().Add(wait))
			return nil
		}
	} else if (*time.Time)(s).UnmarshalText(text) == nil {
		return nil
	}
	return errors.New(`must be an RFC 3339 time such as "2026-12-31T23:59:59Z", or a plus sign and a duration from now such as "+10m" or "+1h30m"`)
}

// check finds errors that the JSON decoder does not. lists is nil if there is no list of targets.
func check(n *push.Notification, lists *targetLists) *problem {
	if n.Platform == "" {
		return invalid("platform", n.Platform.UnmarshalText(nil).Error())
	}
	if p := checkTargets(&n.Target, lists); p != nil {
		return p
	}
	if n.Retry != nil && (n.Retry.Attempts < 1 || n.Retry.Attempts > maxAttempts) {
		return invalid("retry.attempts", fmt.Sprintf("must be a whole number from 1 to %d", maxAttempts))
	}
	if err := push.CheckTags(n.Tags); err != nil {
		return invalidNotification(&push.Receipt{Outcome: push.InvalidNotification(err)})
	}
	if len(n.Data) > maxMembers {
		return invalid("data", tooManyMembers)
	}
	return checkBlocks(n)
}

var tooManyMembers = fmt.Sprintf("must have at most %d members", maxMembers)

func checkBlocks(n *push.Notification) *problem {
	if n.APNs != nil {
		if len(n.APNs.Headers) > maxMembers {
			return invalid("apns.headers", tooManyMembers)
		}
		if p := checkRaw("apns.payload", (*[]byte)(&n.APNs.Payload)); p != nil {
			return p
		}
	}
	if n.FCM != nil {
		if p := checkRaw("fcm.message", (*[]byte)(&n.FCM.Message)); p != nil {
			return p
		}
	}
	if n.WebPush != nil {
		if len(n.WebPush.Headers) > maxMembers {
			return invalid("webpush.headers", tooManyMembers)
		}
		return checkRaw("webpush.notification", (*[]byte)(&n.WebPush.Notification))
	}
	return nil
}

// checkRaw accepts an object of limited depth. It sets null to nil.
func checkRaw(field string, raw *[]byte) *problem {
	switch {
	case len(*raw) == 0:
	case string(*raw) == "null":
		*raw = nil
	case (*raw)[0] != '{':
		return invalid(field, "must be an object")
	case strictjson.Depth(*raw) > maxDepth:
		return invalid(field, fmt.Sprintf("must be nested at most %d deep", maxDepth))
	}
	return nil
}

// checkTargets checks that there is exactly one target or list of targets. If there are more, the
// problem names the second.
func checkTargets(t *push.Target, lists *targetLists) *problem {
	if lists == nil && t.Kind() != push.NoTarget {
		return nil
	}
	if lists == nil {
		lists = new(targetLists)
	}
	var set []string
	for _, f := range [...]struct {
		field string
		set   bool
	}{
		{"token", t.Token != ""}, {"tokens", lists.Tokens != nil}, {"topic", t.Topic != ""}, {"condition", t.Condition != ""},
		{"channel", t.Channel != ""}, {"installation", t.Installation != ""}, {"installations", lists.Installations != nil},
		{"subscription", t.Subscription != nil}, {"subscriptions", lists.Subscriptions != nil},
	} {
		if f.set {
			set = append(set, f.field)
		}
	}
	switch len(set) {
	case 0:
		return invalid("token", exactlyOneTarget)
	case 1:
		return lists.check()
	default:
		return invalid(set[1], exactlyOneTarget)
	}
}

const exactlyOneTarget = "exactly one of token, topic, condition, channel, installation, subscription, tokens, installations " +
	"and subscriptions must be set"

func invalid(field, allowed string) *problem {
	if field == "" {
		return &problem{kind: invalidField, detail: "the notification " + allowed}
	}
	return &problem{kind: invalidField, field: field, detail: field + ": " + allowed}
}

// mapDecodeError converts an error of the decoder into a problem that names the field and what is
// allowed there.
func mapDecodeError(err error, text []byte) *problem {
	return strictProblem(strictjson.Explain(err, text))
}

// strictProblem returns the problem for an error of the strict decoder, or one like it.
func strictProblem(e *strictjson.Error) *problem {
	switch e.Reason {
	case strictjson.InvalidField:
		return invalid(e.Field, e.Detail)
	case strictjson.UnknownField:
		return &problem{kind: unknownField, field: e.Field, detail: e.Error()}
	case strictjson.DuplicateField:
		return &problem{kind: duplicateField, field: e.Field, detail: e.Error()}
	default:
		return &problem{kind: invalidJSON, field: e.Field, detail: e.Error()}
	}
}
