// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

// wantPushTypes are the push types from Apple's documentation: the topic's suffix, the payload
// limit, the priorities, and whether a key or a certificate can send them.
var wantPushTypes = []struct {
	name, suffix string
	limit        int
	priorities   string
	key, cert    bool
}{
	{"alert", "", 4096, "1 5 10", true, true},
	{"background", "", 4096, "5", true, true},
	{"location", ".location-query", 4096, "1 5 10", true, false},
	{"voip", ".voip", 5120, "1 5 10", true, true},
	{"complication", ".complication", 4096, "1 5 10", true, true},
	{"fileprovider", ".pushkit.fileprovider", 4096, "1 5 10", true, true},
	{"mdm", "", 4096, "1 5 10", false, true},
	{"liveactivity", ".push-type.liveactivity", 4096, "5 10", true, true},
	{"pushtotalk", ".voip-ptt", 4096, "1 5 10", true, true},
	{"widgets", ".push-type.widgets", 4096, "1 5 10", true, true},
	{"controls", ".push-type.controls", 4096, "1 5 10", true, true},
}

// pushTypeNotification returns a notification of a push type with a payload of size bytes.
func pushTypeNotification(kind string, size int) *push.Notification {
	payload := fill(`{"aps":{"content-available":1},"k":"`, "k", `"}`, size)
	if kind == "liveactivity" {
		payload = fill(`{"aps":{"timestamp":1,"event":"end"},"k":"`, "k", `"}`, size)
	}
	return newNotification(withHeaders("apns-push-type", kind), withPayload(payload))
}

// accepts reports whether p translates n without an error.
func accepts(p *apns.Provider, n *push.Notification) bool {
	_, err := p.Translate(n)
	return err == nil
}

func TestPushTypes(t *testing.T) {
	key, certificate := newKeyProvider(t), newCertificateProvider(t)
	for _, k := range wantPushTypes {
		t.Run(k.name, func(t *testing.T) {
			equal(t, "with a key", accepts(key, pushTypeNotification(k.name, 100)), k.key)
			equal(t, "with a certificate", accepts(certificate, pushTypeNotification(k.name, 100)), k.cert)
			p := key
			if !k.key {
				p = certificate
			}
			equal(t, "topic", headerMap(t, translate(t, p, pushTypeNotification(k.name, 100)))["apns-topic"], topic+k.suffix)
			equal(t, "bytes", len(translate(t, p, pushTypeNotification(k.name, k.limit)).Body), k.limit)
			equal(t, "one byte more", mustRefuse(t, p, pushTypeNotification(k.name, k.limit+1)).Reason, "PayloadTooLarge")
			for priority := -1; priority <= 12; priority++ {
				n := pushTypeNotification(k.name, 100)
				n.APNs.Headers["apns-priority"] = fmt.Sprint(priority)
				allowed := slices.Contains(strings.Fields(k.priorities), fmt.Sprint(priority))
				equal(t, "priority "+fmt.Sprint(priority), accepts(p, n), allowed)
			}
		})
	}
}

func TestEnumeratedValues(t *testing.T) {
	payload := func(format string) func(string) *push.Notification {
		return func(value string) *push.Notification { return newNotification(withPayload(fmt.Sprintf(format, value))) }
	}
	header := func(name string) func(string) *push.Notification {
		return func(value string) *push.Notification { return newNotification(withHeaders(name, value)) }
	}
	activity := func(value string) *push.Notification {
		return newNotification(withHeaders("apns-push-type", "liveactivity"), withPayload(strings.Replace(startPayload, "start", value, 1)))
	}
	broadcast := func(value string) *push.Notification {
		n := activity(value)
		delete(n.APNs.Headers, "apns-push-type")
		n.Target = push.Target{Channel: channelID}
		return n
	}
	p := newKeyProvider(t)
	for _, c := range []struct {
		name                    string
		build                   func(string) *push.Notification
		valid, unknown, invalid []string
		field                   string
	}{
		{"push type", header("apns-push-type"), []string{"alert", "voip", "widgets"}, []string{"widget", "live-activity", "notification"},
			[]string{"", "Alert", "ALERT", " alert", "alert ", "alert,background", "\x00"}, "apns.headers.apns-push-type"},
		{"priority", header("apns-priority"), []string{"1", "5", "10"}, nil, []string{"", "0", "05", "+5", "5.0", "high", "11"}, "apns.headers.apns-priority"},
		{"expiration", header("apns-expiration"), []string{"0", "1795600000", "99999999999"}, nil,
			[]string{"", "-1", "1.5", "1e9", "soon", "2026-12-31T23:59:59Z", "100000000000"}, "apns.headers.apns-expiration"},
		{"interruption level", payload(`{"aps":{"alert":"Hi","interruption-level":%q}}`), []string{"passive", "active", "time-sensitive", "critical"},
			[]string{"urgent"}, []string{"", "Passive", "timeSensitive", "time_sensitive"}, "apns.payload.aps.interruption-level"},
		{"interruption level, not a string", payload(`{"aps":{"alert":"Hi","interruption-level":%s}}`), []string{"null"}, nil, []string{"1", "[]", "true"}, "apns.payload.aps.interruption-level"},
		{"event", activity, []string{"start", "update", "end"}, []string{"begin", "stop", "updated"}, []string{"", "Start"}, "apns.payload.aps.event"},
		{"broadcast event", broadcast, []string{"update", "end"}, []string{"begin"}, []string{"start", ""}, "apns.payload.aps.event"},
		{"header", func(name string) *push.Notification { return newNotification(withHeaders(name, "1")) }, nil, []string{"apns-new", "Apns-New"},
			nil, "apns.headers.apns-new"},
		{"member", payload(`{"aps":{"%s":null}}`), knownMembers, nil, nil, ""},
		{"unknown member", payload(`{"aps":{"alert":"Hi","%s":{}}}`), nil, []string{"mutable_content"}, nil, "apns.payload.aps.mutable_content"},
		{"member that may be a secret", payload(`{"aps":{"alert":"Hi","%s":1}}`), nil, []string{"", "a b", deviceToken}, nil, "apns.payload.aps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, value := range c.valid {
				n := c.build(value)
				equal(t, value, accepts(p, n), true)
				equal(t, value, len(n.Warnings), 0)
			}
			for _, value := range c.unknown {
				n := c.build(value)
				equal(t, value, accepts(p, n), true)
				equal(t, value, fields(n.Warnings), []string{c.field})
				n = c.build(value)
				n.Strict = true
				equal(t, value+", strict", mustRefuse(t, p, n).Reason, "NotRecognized")
			}
			for _, value := range c.invalid {
				equal(t, cmp.Or(value, "empty"), mustRefuse(t, p, c.build(value)).Field, c.field)
			}
		})
	}
}

// fields returns the fields of warnings.
func fields(warnings []push.Warning) (names []string) {
	for _, w := range warnings {
		names = append(names, w.Field)
	}
	return names
}

// knownMembers are the members of aps in Apple's documentation.
var knownMembers = strings.Fields(`alert badge sound thread-id category content-available mutable-content target-content-id
	interruption-level relevance-score filter-criteria stale-date content-state timestamp event dismissal-date attributes-type
	attributes input-push-token input-push-channel content-changed url-args`)

func TestUnknownHeadersAreSent(t *testing.T) {
	n := newNotification(withHeaders("Apns-New", "a b", "apns-priority", "5"))
	sent := headerMap(t, translate(t, newKeyProvider(t), n))
	equal(t, "sent", sent["apns-new"]+" "+sent["apns-priority"], "a b 5")
	n = newNotification(withChannel)
	n.APNs.Headers = map[string]string{"apns-new": "x"}
	equal(t, "in a broadcast", headerMap(t, translate(t, newKeyProvider(t), n))["apns-new"], "x")
	equal(t, "warning", fields(n.Warnings), []string{"apns.headers.apns-new"})
	for _, header := range [][2]string{
		{"authorization", "bearer x"}, {"apns-id", notificationID}, {"Apns-Id", notificationID}, {"apns-request-id", notificationID}, {"apns-channel-id", channelID},
		{":path", "/"}, {"content-type", "text/plain"}, {"content-length", "1"}, {"connection", "close"}, {"x-new", "1"}, {"apns-new\r\nx", "1"}, {"apns-new ", "1"}, {"apns-ne\u0175", "1"},
		{"apns-new", ""}, {"apns-new", "a\r\nb"}, {"apns-new", " a"}, {"apns-new", "\u00e9"}, {"apns-new", strings.Repeat("x", 1025)}, {"apns-" + strings.Repeat("x", 40), "1"},
	} {
		refused := mustRefuse(t, newKeyProvider(t), newNotification(withHeaders(header[0], header[1])))
		equal(t, header[0], refused.Reason, "InvalidHeader")
	}
}
