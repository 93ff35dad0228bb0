// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"fmt"
	"strings"
	"testing"
)

// whole is a message with everything that FCM's reference lists, some of it in camelCase.
const whole = `{"name":"x","data":{"k":"v"},"notification":{"title":"t","body":"b","image":"https://example.com/i.png"},
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

func TestAMessageWithEverythingThatFCMKnowsIsTaken(t *testing.T) {
	translate(t, ready(t), hello(raw(whole)))
}

func TestEveryWordOfEveryEnumIsTakenAndNothingElse(t *testing.T) {
	for field, words := range map[string]string{
		"priority":                           "NORMAL HIGH",
		"notification.notification_priority": "PRIORITY_UNSPECIFIED PRIORITY_MIN PRIORITY_LOW PRIORITY_DEFAULT PRIORITY_HIGH PRIORITY_MAX",
		"notification.visibility":            "VISIBILITY_UNSPECIFIED PRIVATE PUBLIC SECRET",
		"notification.proxy":                 "PROXY_UNSPECIFIED ALLOW DENY IF_PRIORITY_LOWERED",
	} {
		with := func(value string) string {
			if outer, inner, nested := strings.Cut(field, "."); nested {
				return fmt.Sprintf(`{"android":{%q:{%q:%s}}}`, outer, inner, value)
			}
			return fmt.Sprintf(`{"android":{%q:%s}}`, field, value)
		}
		for word := range strings.FieldsSeq(words) {
			translate(t, ready(t), hello(raw(with(`"`+word+`"`))))
		}
		for _, value := range []string{`"x"`, `""`, `true`, `{}`, `-1`, `9`} {
			refused := refusal(t, ready(t), hello(raw(with(value))))
			equal(t, value, refused.Field+" "+refused.Reason, "fcm.message.android."+field+" InvalidPayload")
			equal(t, "names the words", strings.Contains(refused.Allowed, strings.ReplaceAll(words, " ", ", ")), true)
		}
	}
}

func TestAFieldThatFCMDoesNotKnowIsRefusedWithItsPath(t *testing.T) {
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
		refused := refusal(t, ready(t), hello(raw(message)))
		equal(t, message, refused.Field+" "+refused.Reason, path+" InvalidPayload")
	}
}

func TestAValueThatFCMCannotReadIsRefused(t *testing.T) {
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
		equal(t, message, refusal(t, ready(t), hello(raw(message))).Reason, "InvalidPayload")
	}
	translate(t, ready(t), hello(raw(`{"android":{"ttl":"2419200s","notification":{"notification_count":"3"}}}`)))
}
