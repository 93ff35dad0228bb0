// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/push"
)

// fullMessage is a message with every field in FCM's reference, some of them in camel case.
const fullMessage = `{"name":"x","data":{"k":"v"},"notification":{"title":"t","body":"b","image":"https://example.com/i.png"},
	"fcmOptions":{"analyticsLabel":"a-_.~%9"},
	"android":{"collapse_key":"c","priority":"high","ttl":"3.5s","restricted_package_name":"com.example","data":{"a":"b"},
		"direct_boot_ok":true,"bandwidthConstrainedOk":false,"restricted_satellite_ok":true,"fcm_options":{"analytics_label":"x"},
		"notification":{"title":"t","body":"b","icon":"i","color":"#aAbB09","sound":"s","tag":"t","click_action":"c","body_loc_key":"k",
			"body_loc_args":["a","b"],"title_loc_key":"k","titleLocArgs":[],"channel_id":"c","ticker":"t","sticky":true,
			"event_time":"2026-10-02T15:01:23.045123456Z","local_only":false,"notification_priority":"PRIORITY_MAX","default_sound":true,
			"default_vibrate_timings":true,"default_light_settings":true,"vibrate_timings":["0.5s","1s"],"visibility":"PUBLIC",
			"notification_count":3,"light_settings":{"color":{"red":0.5,"green":1,"blue":0,"alpha":1e-3},"light_on_duration":"1s","light_off_duration":"2.000000001s"},
			"image":"https://example.com/i.png","proxy":"IF_PRIORITY_LOWERED"}},
	"apns":{"headers":{"apns-priority":"5"},"payload":{"aps":{"alert":"x"},"any":[1,{}]},"fcm_options":{"analytics_label":"a","image":"https://x/y"},"live_activity_token":"abc"},
	"webpush":{"headers":{"TTL":"1"},"data":{"k":"v"},"notification":{"actions":[{}]},"fcm_options":{"link":"https://example.com/x?y","analytics_label":"z"}}}`

func TestMessageWithAllFieldsIsAccepted(t *testing.T) {
	translate(t, newProvider(t), newNotification(withMessage(fullMessage)))
}

// enums are all fields of a message with a fixed set of values, from the reference and the
// protocols behind it.
var enums = []struct {
	field, names string
	number       bool // the values can also be given as numbers
}{
	{"android.priority", "NORMAL HIGH", true},
	{"android.notification.notification_priority", "PRIORITY_UNSPECIFIED PRIORITY_MIN PRIORITY_LOW PRIORITY_DEFAULT PRIORITY_HIGH PRIORITY_MAX", true},
	{"android.notification.visibility", "VISIBILITY_UNSPECIFIED PRIVATE PUBLIC SECRET", true},
	{"android.notification.proxy", "PROXY_UNSPECIFIED ALLOW DENY IF_PRIORITY_LOWERED", true},
	{"apns.headers.apns-push-type", "alert background location voip complication fileprovider mdm liveactivity pushtotalk widgets controls", false},
	{"apns.headers.apns-priority", "10 5 1", false},
	{"webpush.headers.urgency", "very-low low normal high", false},
}

func TestEnumValues(t *testing.T) {
	p := newProvider(t)
	for _, e := range enums {
		with := func(value string) func(*push.Notification) {
			for _, member := range slices.Backward(strings.Split(e.field, ".")) {
				value = fmt.Sprintf(`{%q:%s}`, member, value)
			}
			return withMessage(value)
		}
		names := strings.Fields(e.names)
		for i, name := range names {
			translate(t, p, newNotification(with(`"`+name+`"`)))
			if e.number {
				translate(t, p, newNotification(with(strconv.Itoa(i))))
				translate(t, p, newNotification(with(`"`+strings.ToLower(name)+`"`)))
			}
		}
		for _, value := range []string{`"x"`, `""`, `true`, `{}`, `[]`, `-1`, `9`, `1.0`, `1e0`, strconv.Itoa(len(names) + 1), `"` + names[0] + ` "`, `"` + names[0] + `,` + names[1] + `"`} {
			refused := mustRefuse(t, p, newNotification(with(value)))
			equal(t, e.field+" "+value, refused.Reason, "InvalidPayload")
			equal(t, "the field", strings.HasPrefix("fcm.message."+e.field, refused.Field), true)
			equal(t, "lists the values", strings.Contains(refused.Allowed, strings.Join(names, ", ")) || refused.Field == "fcm.message.apns.headers" || refused.Field == "fcm.message.webpush.headers", true)
		}
	}
	equal(t, "number out of range", mustRefuse(t, p, newNotification(withMessage(`{"android":{"notification":{"visibility":4}}}`))).Reason, "InvalidPayload")
}

func TestPlatformHeadersAreCheckedCaseInsensitively(t *testing.T) {
	p := newProvider(t)
	for message, field := range map[string]string{
		`{"apns":{"headers":{"APNs-Priority":"7"}}}`:                                          "apns.headers.apns-priority",
		`{"apns":{"headers":{"apns-expiration":"-1"}}}`:                                       "apns.headers.apns-expiration",
		`{"apns":{"headers":{"apns-collapse-id":"` + strings.Repeat("x", 65) + `"}}}`:         "apns.headers.apns-collapse-id",
		`{"webpush":{"headers":{"TTL":"1s"}}}`:                                                "webpush.headers.ttl",
		`{"webpush":{"headers":{"Topic":"` + strings.Repeat("x", 33) + `","Urgency":"low"}}}`: "webpush.headers.topic",
	} {
		equal(t, message, mustRefuse(t, p, newNotification(withMessage(message))).Field, "fcm.message."+field)
	}
	translate(t, p, newNotification(withMessage(`{"apns":{"headers":{"APNS-Expiration":"0","apns-collapse-id":"","x-mine":"?"}},"webpush":{"headers":{"TTL":"0","Urgency":"high","X-Mine":""}}}`)))
}

func TestUnknownFieldErrorHasPath(t *testing.T) {
	for path, message := range map[string]string{
		"fcm.message.titel":                                                 `{"titel":"x"}`,
		"fcm.message.notification.sound":                                    `{"notification":{"sound":"x"}}`,
		"fcm.message.android.notification.channel":                          `{"android":{"notification":{"channel":"x"}}}`,
		"fcm.message.android.notification.light_settings.color.yellow":      `{"android":{"notification":{"light_settings":{"color":{"yellow":1}}}}}`,
		"fcm.message.apns.fcm_options.link":                                 `{"apns":{"fcm_options":{"link":"x"}}}`,
		"fcm.message.webpush":                                               `{"webpush":{"SECRET with a space":1}}`,
		"fcm.message":                                                       `{"` + strings.Repeat("x", 41) + `":1}`,
		"fcm.message.android.channelId":                                     `{"android":{"channelId":"x"}}`,
		"fcm.message.android.directBootOk":                                  `{"android":{"direct_boot_ok":true,"directBootOk":true}}`,
		"fcm.message.android.notification.vibrate_timings":                  `{"android":{"notification":{"vibrate_timings":["1"]}}}`,
		"fcm.message.android.notification.light_settings.color.red":         `{"android":{"notification":{"light_settings":{"color":{"red":1.5}}}}}`,
		"fcm.message.android.notification.light_settings.color":             `{"android":{"notification":{"light_settings":{"color":"#ffffff"}}}}`,
		"fcm.message.android.notification.light_settings.light_on_duration": `{"android":{"notification":{"light_settings":{"light_on_duration":1}}}}`,
	} {
		refused := mustRefuse(t, newProvider(t), newNotification(withMessage(message)))
		equal(t, message, refused.Field+" "+refused.Reason, path+" InvalidPayload")
	}
}

func TestInvalidValuesAreRefused(t *testing.T) {
	for _, message := range []string{
		`{"notification":[]}`, `{"notification":{"title":1}}`, `{"android":7}`, `{"apns":["x"]}`, `{"apns":{"headers":{"a":1}}}`, `{"apns":{"payload":"x"}}`,
		`{"android":{"ttl":"3600"}}`, `{"android":{"ttl":3600}}`, `{"android":{"ttl":"-1s"}}`, `{"android":{"ttl":"2419200.1s"}}`, `{"android":{"ttl":"1h"}}`,
		`{"android":{"direct_boot_ok":"true"}}`, `{"android":{"notification":{"color":"red"}}}`, `{"android":{"notification":{"color":"#abc"}}}`,
		`{"android":{"notification":{"event_time":"yesterday"}}}`, `{"android":{"notification":{"notification_count":-1}}}`,
		`{"android":{"notification":{"notification_count":1.5}}}`, `{"android":{"notification":{"body_loc_args":"x"}}}`,
		`{"android":{"notification":{"body_loc_args":[1]}}}`, `{"fcm_options":{"analytics_label":"a b"}}`, `{"fcm_options":{"analytics_label":""}}`,
		`{"fcm_options":{"analytics_label":"` + strings.Repeat("x", 51) + `"}}`, `{"webpush":{"fcm_options":{"link":"http://example.com"}}}`,
		`{"webpush":{"notification":"x"}}`,
	} {
		equal(t, message, mustRefuse(t, newProvider(t), newNotification(withMessage(message))).Reason, "InvalidPayload")
	}
	translate(t, newProvider(t), newNotification(withMessage(`{"android":{"ttl":"2419200s","notification":{"notification_count":"3"}}}`)))
}
