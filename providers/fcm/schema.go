// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// check returns an error for a value that FCM would refuse. It warns about a value that FCM may know
// and this package does not. field is the path of the value in the request.
type check func(n *push.Notification, field string, v jsontext.Value) error

// fields maps the field names of an object, in snake case, to their checks. nil means that the
// field is checked elsewhere.
type fields map[string]check

// messageFields are all fields of a message: "REST Resource: projects.messages", revision 20261023.
var messageFields = fields{
	"name": isString, "token": nil, "topic": nil, "condition": nil, "fid": nil, "data": isData,
	"notification": objectOf(fields{"title": isString, "body": isString, "image": isString}),
	"fcm_options":  objectOf(fields{"analytics_label": isLabel}),
	"android":      objectOf(androidFields), "android_v2": objectOf(androidV2Fields),
	"apns": objectOf(apnsFields), "webpush": objectOf(webPushFields),
}

// commonAndroidFields are the fields that android and android_v2 have in common.
var commonAndroidFields = fields{
	"collapse_key": isString, "ttl": isTTL, "restricted_package_name": isString, "data": isData,
	"fcm_options":    objectOf(fields{"analytics_label": isLabel}),
	"direct_boot_ok": isBool, "bandwidth_constrained_ok": isBool, "restricted_satellite_ok": isBool,
}

var (
	androidFields = commonAndroidFields.and(fields{
		"priority": oneOfEnum("NORMAL", "HIGH"),
		"notification": objectOf(androidNotificationFields.and(fields{
			"proxy":                     oneOfEnum("PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
			"bypass_proxy_notification": isBool,
		})),
	})
	androidV2Fields = commonAndroidFields.and(fields{
		"remote_notification": objectOf(fields{
			"mutable_content": isBool, "use_as_v1_data_message": isBool,
			"notification": objectOf(androidNotificationFields.and(fields{"id": isInt32})),
		}),
		"background_sync": objectOf(fields{}),
	})
)

var androidNotificationFields = fields{
	"title": isString, "body": isString, "icon": isString, "color": isColor, "sound": isString, "tag": isString, "click_action": isString,
	"body_loc_key": isString, "body_loc_args": listOf(isString), "title_loc_key": isString, "title_loc_args": listOf(isString),
	"channel_id": isString, "ticker": isString, "sticky": isBool, "event_time": isTime, "local_only": isBool, "image": isString,
	"notification_priority": oneOfEnum("PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW", "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"),
	"visibility":            oneOfEnum("VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
	"default_sound":         isBool, "default_vibrate_timings": isBool, "default_light_settings": isBool,
	"vibrate_timings": listOf(isDuration), "notification_count": isCount,
	"light_settings": objectOf(fields{
		"color":             objectOf(fields{"red": isUnitFraction, "green": isUnitFraction, "blue": isUnitFraction, "alpha": isUnitFraction}),
		"light_on_duration": isDuration, "light_off_duration": isDuration,
	}),
}

var (
	apnsFields = fields{
		"headers": headersOf(apnsHeaders), "payload": isPayload, "live_activity_token": isString,
		"fcm_options": objectOf(fields{"analytics_label": isLabel, "image": isString}),
	}
	webPushFields = fields{
		"headers": headersOf(webPushHeaders), "data": isData, "notification": isObject,
		"fcm_options": objectOf(fields{"link": isLink, "analytics_label": isLabel}),
	}
)

// and returns f with more fields.
func (f fields) and(more fields) fields {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

func (f fields) known(name string) bool {
	_, known := f[name]
	return known
}

// apnsHeaders are the APNs headers whose values are checked: "Sending notification requests to
// APNs".
var apnsHeaders = fields{
	"apns-push-type": oneOfNames("alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity",
		"pushtotalk", "widgets", "controls"),
	"apns-priority": oneOfStrings("10", "5", "1"), "apns-expiration": matchesPattern("seconds since 1970, in digits", `[0-9]{1,12}`),
	"apns-collapse-id": require("at most 64 bytes", func(v jsontext.Value) bool {
		s, ok := unquote(v)
		return ok && len(s) <= 64
	}),
}

// webPushHeaders are the headers of RFC 8030, section 5.
var webPushHeaders = fields{
	"urgency": oneOfStrings("very-low", "low", "normal", "high"), "ttl": matchesPattern("seconds, in digits", `[0-9]{1,10}`),
	"topic": matchesPattern("1 to 32 letters, digits, hyphens and underscores", `[a-zA-Z0-9_-]{1,32}`),
}

// headersOf checks header fields, whose names are case-insensitive. Unknown ones are not checked.
func headersOf(known fields) check {
	return func(n *push.Notification, field string, v jsontext.Value) error {
		if err := isStringMap(n, field, v); err != nil {
			return err
		}
		given, _ := parseObject(v)
		seen := map[string]bool{}
		for _, m := range given {
			name := strings.ToLower(m.name)
			if seen[name] {
				return invalid(headerPath(field, name), invalidPayload, "set once; the names of headers are case-insensitive")
			}
			seen[name] = true
			if one := known[name]; one != nil {
				if err := one(n, field+"."+name, m.value); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// headerPath is memberPath for a header's name.
func headerPath(field, name string) string { return pathOf(field, name, "-") }

// oneOfStrings accepts the given values, with exact case.
func oneOfStrings(values ...string) check {
	return require("one of "+strings.Join(values, ", "), func(v jsontext.Value) bool {
		s, ok := unquote(v)
		return ok && slices.Contains(values, s)
	})
}

// oneOfNames accepts the given values, and others in lower case with a warning.
func oneOfNames(values ...string) check {
	allowed := "one of " + strings.Join(values, ", ")
	return func(n *push.Notification, field string, v jsontext.Value) error {
		switch s, ok := unquote(v); {
		case ok && slices.Contains(values, s):
			return nil
		case ok && isName(s, "-", 40) && strings.ToLower(s) == s && !isDigits(s):
			return n.Warn(field, allowed)
		}
		return invalid(field, invalidPayload, allowed)
	}
}

// check checks the fields of an object. It warns about unknown ones: FCM refuses those that it does
// not know either.
func (f fields) check(n *push.Notification, field string, object members) error {
	seen := map[string]bool{}
	for _, m := range object {
		name := f.canonical(m.name)
		one, known := f[name]
		if seen[name] {
			return invalid(memberPath(field, m.name), invalidPayload, "set once, in either camel case or snake case")
		}
		seen[name] = true
		var err error
		switch {
		case !known:
			err = f.unknown(n, field, m.name)
		case one == nil || m.value.Kind() == 'n': // null is the same as absent (JSON mapping of proto3)
		default:
			err = one(n, memberPath(field, m.name), m.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unknown warns about a field. It returns an error if no field can have that name.
func (f fields) unknown(n *push.Notification, field, name string) error {
	allowed := "absent: the known fields are " + strings.Join(slices.Sorted(maps.Keys(f)), ", ")
	if len(f) == 0 {
		allowed = "absent: this object has no known fields"
	}
	if !isName(name, "_", len(name)) {
		return invalid(field, invalidPayload, "an object whose names consist of letters, digits and underscores")
	}
	return n.Warn(memberPath(field, name), allowed)
}

// memberPath returns the path of a member. It includes the name only if it looks like a field name,
// with few digits: anything else may be a misplaced secret.
func memberPath(field, name string) string { return pathOf(field, name, "_") }

func pathOf(field, name, others string) string {
	digits := strings.IndexFunc(name, unicode.IsDigit)
	if !isName(name, others, 40) || digits >= 0 && len(name)-digits > 2 {
		return field
	}
	return field + "." + name
}

// toSnakeCase returns the name in snake case. FCM accepts camel case too.
func toSnakeCase(name string) string {
	if strings.ContainsRune(name, '_') || strings.ToLower(name) == name {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
			b.WriteByte(c + 'a' - 'A')
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// objectOf checks an object and its members.
func objectOf(f fields) check {
	return func(n *push.Notification, field string, v jsontext.Value) error {
		found, ok := parseObject(v)
		if !ok {
			return invalid(field, invalidPayload, "an object")
		}
		return f.check(n, field, found)
	}
}

func listOf(one check) check {
	return func(n *push.Notification, field string, v jsontext.Value) error {
		values, ok := parseArray(v)
		if !ok {
			return invalid(field, invalidPayload, "a list")
		}
		for _, value := range values {
			if err := one(n, field, value); err != nil {
				return err
			}
		}
		return nil
	}
}

// require returns a check from a predicate and a description of what it allows.
func require(allowed string, fits func(jsontext.Value) bool) check {
	return func(_ *push.Notification, field string, v jsontext.Value) error {
		if !fits(v) {
			return invalid(field, invalidPayload, allowed)
		}
		return nil
	}
}

// matchesPattern checks that a string matches pattern completely.
func matchesPattern(allowed, pattern string) check {
	fits := regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString
	return require(allowed, func(v jsontext.Value) bool {
		s, ok := unquote(v)
		return ok && fits(s)
	})
}

// oneOfEnum accepts the names of an enum in any case, and its numbers, as the JSON mapping of
// proto3 does. It warns about other names and numbers, which FCM may know. If the first name does
// not end in _UNSPECIFIED, the reference does not say whether the numbers start at 0 or 1, so both
// are accepted.
func oneOfEnum(values ...string) check {
	allowed, last := "one of "+strings.Join(values, ", "), len(values)
	if strings.HasSuffix(values[0], "_UNSPECIFIED") {
		last--
	}
	return func(n *push.Notification, field string, v jsontext.Value) error {
		s, isText := unquote(v)
		number, err := strconv.ParseUint(string(v), 10, 31)
		switch {
		case isText && slices.ContainsFunc(values, func(value string) bool { return strings.EqualFold(value, s) }),
			err == nil && number <= uint64(last):
			return nil
		case isText && isName(s, "_", 40) && !isDigits(s[:1]), err == nil:
			return n.Warn(field, allowed)
		}
		return invalid(field, invalidPayload, allowed)
	}
}

// isPayload checks the payload for Apple devices. FCM passes it on, and a device reads a date in
// milliseconds as one far in the future.
func isPayload(_ *push.Notification, field string, v jsontext.Value) error {
	payload, ok := parseObject(v)
	if !ok {
		return invalid(field, invalidPayload, "an object")
	}
	aps := payload.object("aps")
	for _, name := range [...]string{"timestamp", "stale-date", "dismissal-date"} {
		value := aps.get(name)
		if seconds, err := strconv.ParseFloat(string(value), 64); value.Kind() == '0' && (err != nil || seconds >= 1e11) {
			return invalid(field+".aps."+name, invalidPayload, "seconds since 1970, not milliseconds")
		}
	}
	return nil
}

// isData checks a data object: its values are texts, and its names not reserved.
func isData(n *push.Notification, field string, v jsontext.Value) error {
	entries, ok := parseObject(v)
	if !ok || slices.ContainsFunc(entries, func(m member) bool { return m.value.Kind() != '"' }) {
		return invalid(field, invalidPayload, "an object whose values are all strings")
	}
	if slices.ContainsFunc(entries, func(m member) bool { return isReserved(m.name) }) {
		return invalid(field, invalidPayload, reservedNames)
	}
	if slices.ContainsFunc(entries, func(m member) bool { return isDropped(m.name) }) {
		return n.Warn(field, droppedNames)
	}
	return nil
}

var (
	isString    = require("a string", func(v jsontext.Value) bool { return v.Kind() == '"' })
	isBool      = require("true or false", func(v jsontext.Value) bool { return v.Kind() == 't' || v.Kind() == 'f' })
	isObject    = require("an object", func(v jsontext.Value) bool { _, ok := parseObject(v); return ok })
	isStringMap = require("an object whose values are all strings", func(v jsontext.Value) bool {
		found, ok := parseObject(v)
		return ok && !slices.ContainsFunc(found, func(m member) bool { return m.value.Kind() != '"' })
	})
	isInt32 = require("an integer of 32 bits", func(v jsontext.Value) bool {
		_, err := strconv.ParseInt(strings.Trim(string(v), `"`), 10, 32)
		return err == nil
	})
	isCount        = require("an integer, 0 or more", func(v jsontext.Value) bool { return isDigits(strings.Trim(string(v), `"`)) })
	isUnitFraction = require("a number from 0 to 1", func(v jsontext.Value) bool {
		share, err := strconv.ParseFloat(string(v), 64)
		return v.Kind() == '0' && err == nil && share >= 0 && share <= 1
	})
	isTime = require("an RFC 3339 time, such as 2026-12-31T23:59:59Z", func(v jsontext.Value) bool {
		s, ok := unquote(v)
		_, err := time.Parse(time.RFC3339Nano, s)
		return ok && err == nil
	})
	isTTL = require("seconds with the suffix s, from 0s to 2419200s (four weeks)", func(v jsontext.Value) bool {
		s, ok := unquote(v)
		life, err := time.ParseDuration(s)
		return ok && isSeconds(s) && err == nil && life >= 0 && life <= maxTTL
	})
	isSeconds  = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,9})?s$`).MatchString
	isDuration = matchesPattern("seconds with the suffix s, such as 3.5s", `[0-9]{1,12}(\.[0-9]{1,9})?s`)
	isColor    = matchesPattern("a colour in the format #rrggbb", `#[0-9a-fA-F]{6}`)
	isLabel    = matchesPattern("1 to 50 letters, digits and - _ . ~ %", `[a-zA-Z0-9\-_.~%]{1,50}`)
	isLink     = matchesPattern("an https URL", `https://[^/\s]+(/\S*)?`)
)

func isDigits(s string) bool {
	return len(s) <= 10 && isName(s, "", 10) && strings.Trim(s, "0123456789") == ""
}

// parseArray returns the values of a JSON array, and false if v is anything else.
func parseArray(v jsontext.Value) (values []jsontext.Value, ok bool) {
	return values, v.Kind() == '[' && json.Unmarshal(v, &values) == nil
}
