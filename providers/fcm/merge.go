// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// members are an object's, each as it was written.
type members map[string]jsontext.Value

// membersOf returns the members of a JSON object; false for anything else, and
// for one that repeats a name or is not UTF-8.
func membersOf(v jsontext.Value) (members, bool) {
	var in members
	if v.Kind() != '{' || json.Unmarshal(v, &in) != nil {
		return nil, false
	}
	return in, true
}

// merge lays the sender's own message over the common one and checks of the
// result what FCM is sure to refuse. Members that it does not know are FCM's
// to judge.
func merge(common jsontext.Value, n *push.Notification) (jsontext.Value, error) {
	raw, ok := membersOf(jsontext.Value(n.FCM.Message))
	if !ok {
		return nil, misfit("fcm.message", invalidPayload, "a JSON object in UTF-8 without repeated names")
	}
	if err := checkRawTarget(raw, &n.Target); err != nil {
		return nil, err
	}
	spell(raw)
	below, _ := membersOf(common)
	top := overlay(below, raw)
	size, err := rawSize(top)
	if err != nil {
		return nil, err
	}
	if size > limit(n) {
		return nil, tooLarge("fcm.message", size, n)
	}
	return written(top), nil
}

// checkRawTarget refuses a raw message to somebody else than its notification
// is for: quotas, receipts and dead tokens all go by the latter.
func checkRawTarget(raw members, t *push.Target) error {
	for _, name := range [...]string{"token", "topic", "condition", "fid"} {
		value, given := raw[name]
		if !given {
			continue
		}
		var who string
		if json.Unmarshal(value, &who) != nil || name != targetName(t.Kind()) || who != t.Key() {
			return misfit("fcm.message."+name, invalidTarget, "absent, or the notification's own target")
		}
	}
	return nil
}

// spell writes android.collapseKey as the common fields do: FCM reads both
// spellings of every name, and refuses the two at once.
func spell(raw members) {
	android, _ := membersOf(raw["android"])
	if key, camel := android["collapseKey"]; camel && android["collapse_key"] == nil {
		delete(android, "collapseKey")
		android["collapse_key"] = key
		raw["android"] = written(android)
	}
}

// overlay lays above over below, and what both have as objects in the same way.
func overlay(below, above members) members {
	for name, value := range above {
		lower, both := membersOf(below[name])
		upper, objects := membersOf(value)
		if both && objects {
			value = written(overlay(lower, upper))
		}
		below[name] = value
	}
	return below
}

// written returns the members as an object. What was read as JSON can be
// written, so there is no error.
func written(m members) jsontext.Value {
	object, _ := json.Marshal(m, json.Deterministic(true))
	return object
}

// rawSize is payloadSize for a merged message. On the way it checks data, and
// that of android and webpush, which stand in for it on their devices.
func rawSize(top members) (int, error) {
	size, err := dataSize(top["data"], "fcm.message.data")
	if err != nil {
		return 0, err
	}
	for _, platform := range [...]string{"android", "webpush"} {
		if block, ok := membersOf(top[platform]); ok {
			if _, err := dataSize(block["data"], "fcm.message."+platform+".data"); err != nil {
				return 0, err
			}
		}
	}
	shown, _ := membersOf(top["notification"])
	for _, name := range [...]string{"title", "body", "image"} {
		var text string
		if json.Unmarshal(shown[name], &text) == nil {
			size += len(text)
		}
	}
	return size, nil
}

// dataSize returns the bytes of a data object's names and values.
func dataSize(data jsontext.Value, field string) (int, error) {
	if len(data) == 0 || data.Kind() == 'n' {
		return 0, nil
	}
	var entries map[string]string
	if data.Kind() != '{' || json.Unmarshal(data, &entries) != nil || hasNull(data) {
		return 0, misfit(field, invalidPayload, "an object whose values are all strings")
	}
	size := 0
	for name, value := range entries {
		if isReserved(name) {
			return 0, misfit(field, invalidPayload, reservedNames)
		}
		size += len(name) + len(value)
	}
	return size, nil
}

// hasNull reports whether a value of the object is null, which reads as an
// empty string otherwise.
func hasNull(object jsontext.Value) bool {
	in, _ := membersOf(object)
	for _, value := range in {
		if value.Kind() == 'n' {
			return true
		}
	}
	return false
}
