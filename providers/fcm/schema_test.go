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

// fullMessageV2 is android_v2 with every field.
const fullMessageV2 = `{"androidV2":{"collapse_key":"c","ttl":"3.5s","restrictedPackageName":"com.example","data":{"a":"b"},"direct_boot_ok":true,
	"bandwidth_constrained_ok":true,"restricted_satellite_ok":true,"fcm_options":{"analytics_label":"x"},"backgroundSync":{},
	"remote_notification":{"mutable_content":true,"use_as_v1_data_message":false,"notification":{"title":"t","id":-3,"tag":"t","visibility":"SECRET"}}}}`

func TestMessageWithAllFieldsIsAccepted(t *testing.T) {
	for _, message := range []string{fullMessage, fullMessageV2, `{"data":{"google_place_id":"x","gcmToken":"y","googly":"z","gcm_x":"","collapseKey":""}}`} {
		n := newNotification(withMessage(message), func(n *push.Notification) { n.Strict = true })
		translate(t, newProvider(t), n)
		equal(t, "warnings", len(n.Warnings), 0)
	}
}

// enums are all fields of a message with a fixed set of values, from the reference and the
// protocols behind it.
var enums = []struct {
	field, names string
	number       bool // the values can also be given as numbers
	closed       bool // there will be no further values
}{
	{"android.priority", "NORMAL HIGH", true, false},
	{"android.notification.notification_priority", "PRIORITY_UNSPECIFIED PRIORITY_MIN PRIORITY_LOW PRIORITY_DEFAULT PRIORITY_HIGH PRIORITY_MAX", true, false},
	{"android.notification.visibility", "VISIBILITY_UNSPECIFIED PRIVATE PUBLIC SECRET", true, false},
	{"android.notification.proxy", "PROXY_UNSPECIFIED ALLOW DENY IF_PRIORITY_LOWERED", true, false},
	{"apns.headers.apns-push-type", "alert background location voip complication fileprovider mdm liveactivity pushtotalk widgets controls", false, false},
	{"apns.headers.apns-priority", "10 5 1", false, true},
	{"webpush.headers.urgency", "very-low low normal high", false, true},
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
		unknown := []string{`"X_RAY"`, `"x"`, `9`, strconv.Itoa(len(names) + 1)}
		wrong := []string{`""`, `true`, `{}`, `[]`, `-1`, `1.0`, `1e0`, `"` + names[0] + ` "`, `"` + names[0] + `,` + names[1] + `"`}
		switch {
		case e.closed:
			wrong, unknown = append(wrong, unknown...), nil
		case !e.number:
			wrong, unknown = append(wrong, unknown...), []string{`"x"`, `"x-ray"`}
			wrong = slices.DeleteFunc(wrong, func(value string) bool { return value == `"x"` })
		}
		for _, value := range unknown {
			wantWarning(t, with(value), "fcm.message."+e.field, strings.Join(names, ", "))
		}
		for _, value := range wrong {
			refused := mustRefuse(t, p, newNotification(with(value)))
			equal(t, e.field+" "+value, refused.Reason, "InvalidPayload")
			equal(t, "the field", strings.HasPrefix("fcm.message."+e.field, refused.Field), true)
			equal(t, "lists the values", strings.Contains(refused.Allowed, strings.Join(names, ", ")) || refused.Field == "fcm.message.apns.headers" || refused.Field == "fcm.message.webpush.headers", true)
		}
	}
}

// wantWarning checks that a notification is sent with a warning and, if it is strict, refused.
func wantWarning(t *testing.T, change func(*push.Notification), field, allowed string) {
	t.Helper()
	n := newNotification(change)
	translate(t, newProvider(t), n)
	if len(n.Warnings) != 1 || n.Warnings[0].Field != field || !strings.Contains(n.Warnings[0].Detail, allowed) {
		t.Errorf("%s: %+v, want a warning for %s with %q", n.FCM.Message, n.Warnings, field, allowed)
	}
	strict := mustRefuse(t, newProvider(t), newNotification(change, func(n *push.Notification) { n.Strict = true }))
	equal(t, "field", strict.Field, field)
	equal(t, "allowed", strings.Contains(strict.Allowed, allowed), true)
}

func TestDataNamesThatAndroidDropsCauseWarning(t *testing.T) {
	for _, name := range []string{"gcm", "gcm.x", "collapse_key"} {
		wantWarning(t, func(n *push.Notification) { n.Data = map[string]string{name: "v"}; n.FCM = &push.FCMBlock{} }, "data", "collapse_key")
		for _, path := range []string{"data", "android.data", "android_v2.data", "webpush.data"} {
			message := `{"` + name + `":"v"}`
			for _, member := range slices.Backward(strings.Split(path, ".")) {
				message = `{"` + member + `":` + message + `}`
			}
			wantWarning(t, withMessage(message), "fcm.message."+path, "collapse_key")
		}
	}
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

func TestUnknownFieldsAreSentWithWarning(t *testing.T) {
	for path, message := range map[string]string{
		"fcm.message.titel":                                            `{"titel":"x"}`,
		"fcm.message.android_v3":                                       `{"android_v3":{"ttl":5}}`,
		"fcm.message.notification.sound":                               `{"notification":{"sound":"x"}}`,
		"fcm.message.android.notification.channel":                     `{"android":{"notification":{"channel":"x"}}}`,
		"fcm.message.android.notification.light_settings.color.yellow": `{"android":{"notification":{"light_settings":{"color":{"yellow":1}}}}}`,
		"fcm.message.android_v2.background_sync.x":                     `{"android_v2":{"background_sync":{"x":1}}}`,
		"fcm.message.apns.fcm_options.link":                            `{"apns":{"fcm_options":{"link":"x"}}}`,
		"fcm.message":                                                  `{"` + strings.Repeat("x", 41) + `":1}`,
		"fcm.message.android.channelId":                                `{"android":{"channelId":"x"}}`,
	} {
		wantWarning(t, withMessage(message), path, "known fields")
		body := string(translate(t, newProvider(t), newNotification(withMessage(message))).Body)
		member := strings.TrimRight(message[strings.LastIndexAny(message, "{")+1:], "}")
		equal(t, "contains "+member, strings.Contains(body, member), true)
	}
	n := newNotification(withMessage(`{"a":1,"b":{"c":2},"android":{"d":[]}}`))
	translate(t, newProvider(t), n)
	equal(t, "warnings", len(n.Warnings), 3)
}

func TestInvalidFieldErrorHasPath(t *testing.T) {
	for path, message := range map[string]string{
		"fcm.message":                                                       `{"":1}`,
		"fcm.message.webpush":                                               `{"webpush":{"SECRET with a space":1}}`,
		"fcm.message.android.directBootOk":                                  `{"android":{"direct_boot_ok":true,"directBootOk":true}}`,
		"fcm.message.android.notification.vibrate_timings":                  `{"android":{"notification":{"vibrate_timings":["1"]}}}`,
		"fcm.message.android.notification.light_settings.color.red":         `{"android":{"notification":{"light_settings":{"color":{"red":1.5}}}}}`,
		"fcm.message.android.notification.light_settings.color":             `{"android":{"notification":{"light_settings":{"color":"#ffffff"}}}}`,
		"fcm.message.android.notification.light_settings.light_on_duration": `{"android":{"notification":{"light_settings":{"light_on_duration":1}}}}`,
		"fcm.message.android_v2.remote_notification.notification.id":        `{"android_v2":{"remote_notification":{"notification":{"id":2147483648}}}}`,
		"fcm.message.android_v2.ttl":                                        `{"android_v2":{"ttl":"1h"}}`,
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

func TestDatesOfActivityAreInSeconds(t *testing.T) {
	p := newProvider(t)
	for _, member := range []string{"timestamp", "stale-date", "dismissal-date"} {
		message := func(value string) *push.Notification {
			return newNotification(withMessage(`{"apns":{"live_activity_token":"ab","payload":{"aps":{"event":"end","` + member + `":` + value + `}}}}`))
		}
		for _, valid := range []string{"1795600000", "1795600000.5", "null", "99999999999"} {
			translate(t, p, message(valid))
		}
		for _, bad := range []string{"1795600000000", "1.7956e12", "1e999"} {
			refused := mustRefuse(t, p, message(bad))
			equal(t, bad, refused.Field, "fcm.message.apns.payload.aps."+member)
			equal(t, bad, strings.Contains(refused.Allowed, "not milliseconds"), true)
		}
	}
}
