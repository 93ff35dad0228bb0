// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"maps"
	"regexp"
	"strconv"
	"strings"
)

// kind is the type of a field in the proto3 JSON mapping, as error messages name it.
type kind string

const (
	kindString   kind = "TYPE_STRING"
	kindBool     kind = "TYPE_BOOL"
	kindInt      kind = "TYPE_INT32"
	kindFloat    kind = "TYPE_FLOAT"
	kindEnum     kind = "TYPE_ENUM"
	kindDuration kind = "TYPE_DURATION"
	kindMessage  kind = "TYPE_MESSAGE"
	kindMap      kind = "TYPE_MAP" // of strings
	kindList     kind = "TYPE_LIST"
	kindStruct   kind = "TYPE_STRUCT" // any JSON object
)

// field is one field of the message schema, from "REST Resource: projects.messages" (read 2026-11).
type field struct {
	kind   kind
	fields fields            // of a message, by both spellings of the name
	items  *field            // of a list
	values []string          // of an enum
	check  func(string) bool // of a string or duration: whether the value is valid
	keys   func(string) bool // of a map: whether the key is valid
	target bool              // the field is a target of the message, which must have exactly one
	sized  bool              // the text of the field and of all fields in it counts toward the size limit
}

// requestSchema is the schema of a request body, revision 20261023.
var requestSchema = msg(fields{
	"validate_only": {kind: kindBool},
	"message": msg(fields{
		"name":         {kind: kindString},
		"token":        {kind: kindString, target: true},
		"fid":          {kind: kindString, target: true},
		"topic":        {kind: kindString, target: true},
		"condition":    {kind: kindString, target: true},
		"data":         {kind: kindMap, keys: isDataKey, sized: true},
		"notification": sized(msg(fields{"title": text, "body": text, "image": text})),
		"fcm_options":  fcmOptions(nil),
		"android":      androidConfig,
		"android_v2":   androidConfigV2,
		"apns":         apnsConfig,
		"webpush":      webpushConfig,
	}),
})

var text = &field{kind: kindString}

var androidConfig = msg(fields{
	"collapse_key": text, "restricted_package_name": text,
	"priority":       {kind: kindEnum, values: []string{"NORMAL", "HIGH"}},
	"ttl":            {kind: kindDuration, check: isTTL},
	"data":           {kind: kindMap, keys: isDataKey, sized: true},
	"notification":   androidNotification,
	"fcm_options":    fcmOptions(nil),
	"direct_boot_ok": {kind: kindBool}, "bandwidth_constrained_ok": {kind: kindBool}, "restricted_satellite_ok": {kind: kindBool},
})

var androidConfigV2 = msg(fields{
	"collapse_key": text, "restricted_package_name": text,
	"ttl":         {kind: kindDuration, check: isTTL},
	"data":        {kind: kindMap, keys: isDataKey, sized: true},
	"fcm_options": fcmOptions(nil), "background_sync": msg(nil),
	"remote_notification": msg(fields{
		"mutable_content": {kind: kindBool}, "use_as_v1_data_message": {kind: kindBool},
		"notification": sized(msg(androidNotificationFields(fields{"id": {kind: kindInt}}))),
	}),
	"direct_boot_ok": {kind: kindBool}, "bandwidth_constrained_ok": {kind: kindBool}, "restricted_satellite_ok": {kind: kindBool},
})

var androidNotification = sized(msg(androidNotificationFields(fields{
	"proxy":                     {kind: kindEnum, values: []string{"PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"}},
	"bypass_proxy_notification": {kind: kindBool},
})))

// androidNotificationFields returns the fields that both kinds of notifications have, and more.
func androidNotificationFields(more fields) fields {
	all := maps.Clone(commonNotificationFields)
	maps.Copy(all, more)
	return all
}

var commonNotificationFields = fields{
	"title": text, "body": text, "icon": text, "sound": text, "tag": text, "click_action": text, "image": text,
	"body_loc_key": text, "title_loc_key": text, "channel_id": text, "ticker": text,
	"color":         {kind: kindString, check: regexp.MustCompile(`^#[0-9a-fA-F]{6}$`).MatchString},
	"body_loc_args": listOf(text), "title_loc_args": listOf(text),
	"sticky": {kind: kindBool}, "local_only": {kind: kindBool}, "default_sound": {kind: kindBool},
	"default_vibrate_timings": {kind: kindBool}, "default_light_settings": {kind: kindBool},
	"event_time": text, "notification_count": {kind: kindInt},
	"vibrate_timings": listOf(&field{kind: kindDuration}),
	"notification_priority": {kind: kindEnum, values: []string{"PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW",
		"PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"}},
	"visibility": {kind: kindEnum, values: []string{"VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"}},
	"light_settings": msg(fields{
		"color": msg(fields{
			"red": {kind: kindFloat}, "green": {kind: kindFloat}, "blue": {kind: kindFloat}, "alpha": {kind: kindFloat},
		}),
		"light_on_duration": {kind: kindDuration}, "light_off_duration": {kind: kindDuration},
	}),
}

var apnsConfig = msg(fields{
	"headers":             {kind: kindMap},
	"payload":             {kind: kindStruct, sized: true},
	"fcm_options":         fcmOptions(fields{"image": text}),
	"live_activity_token": text,
})

var webpushConfig = msg(fields{
	"headers":      {kind: kindMap},
	"data":         {kind: kindMap},
	"notification": {kind: kindStruct},
	"fcm_options":  fcmOptions(fields{"link": {kind: kindString, check: isHTTPS}}),
})

type fields = map[string]*field

// msg returns a message with those fields. Their names may also be in camelCase.
func msg(f fields) *field {
	all := make(fields, 2*len(f))
	for name, schema := range f {
		all[name], all[camelCase(name)] = schema, schema
	}
	return &field{kind: kindMessage, fields: all}
}

func sized(f *field) *field {
	f.sized = true
	return f
}

func listOf(items *field) *field { return &field{kind: kindList, items: items} }

func fcmOptions(more fields) *field {
	all := fields{"analytics_label": {kind: kindString, check: isLabel}}
	maps.Copy(all, more)
	return msg(all)
}

func camelCase(name string) string {
	parts := strings.Split(name, "_")
	for i, part := range parts[1:] {
		parts[i+1] = strings.ToUpper(part[:1]) + part[1:]
	}
	return strings.Join(parts, "")
}

var (
	isLabel    = regexp.MustCompile(`^[a-zA-Z0-9\-_.~%]{0,50}$`).MatchString
	isTopic    = regexp.MustCompile(`^[a-zA-Z0-9\-_.~%]+$`).MatchString
	inTopics   = regexp.MustCompile(`'[a-zA-Z0-9\-_.~%]+' in topics`)
	isDuration = regexp.MustCompile(`^-?[0-9]+(\.[0-9]{1,9})?s$`).MatchString
)

func isHTTPS(link string) bool { return strings.HasPrefix(link, "https://") }

// isDataKey reports whether a key of data is allowed, which means that FCM does not reserve it.
func isDataKey(key string) bool {
	return key != "from" && key != "message_type" && !strings.HasPrefix(key, "google.") && !strings.HasPrefix(key, "gcm.notification.")
}

// isTTL reports whether a duration is from 0 to four weeks.
func isTTL(ttl string) bool {
	seconds, err := strconv.ParseFloat(strings.TrimSuffix(ttl, "s"), 64)
	return err == nil && seconds >= 0 && seconds <= 2419200
}

// isCondition reports whether a condition has one to five topics, joined by &&, ||, ! and
// parentheses.
func isCondition(condition string) bool {
	rest := inTopics.ReplaceAllString(condition, "")
	n := len(inTopics.FindAllString(condition, -1))
	return n >= 1 && n <= 5 && strings.Trim(rest, " &|!()") == ""
}
