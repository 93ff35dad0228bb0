// SPDX-License-Identifier: Apache-2.0

// Package compat_test sends to the mock with unmodified client libraries. It is a module of its own,
// so that the gateway does not depend on them.
package compat_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"

	"github.com/sluice-push/sluice/mockprovider"
)

const device = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// newAPNsClient returns a client of sideshow/apns2 with the key of the mock.
func newAPNsClient(t *testing.T, m *mockprovider.Mock) *apns2.Client {
	t.Helper()
	credential := m.Credentials()[0]
	key, err := token.AuthKeyFromBytes(credential.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	c := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: credential.KeyID, TeamID: credential.TeamID})
	c.Host = "https://" + m.APNsAddrs()[0].String()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func notification(to string) *apns2.Notification {
	return &apns2.Notification{
		DeviceToken: to, Topic: "com.example.app", PushType: apns2.PushTypeAlert,
		Payload: `{"aps":{"alert":{"title":"Hello","body":"World"}}}`,
	}
}

func send(t *testing.T, c *apns2.Client, n *apns2.Notification) *apns2.Response {
	t.Helper()
	got, err := c.PushWithContext(testContext(t), n)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestApns2IsAccepted(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{KeepContent: true})
	n := notification(device)
	n.ApnsID, n.CollapseID, n.Priority = "eabeae54-14a8-11e5-b60b-1697f925ec7b", "score", apns2.PriorityLow
	got := send(t, newAPNsClient(t, m), n)
	if !got.Sent() || got.ApnsID != n.ApnsID {
		t.Errorf("got %+v", got)
	}
	entry := m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.APNs, ID: n.ApnsID, Status: 200}, 1)[0]
	if entry.Token != device || entry.Topic != "com.example.app" || entry.PushType != "alert" || !strings.Contains(entry.Body, "World") {
		t.Errorf("the ledger has %+v", entry)
	}
}

func TestApns2IsAcceptedByCertificate(t *testing.T) {
	m := mockprovider.Start(t)
	c := apns2.NewClient(m.ClientCertificate())
	c.Host = "https://" + m.APNsAddrs()[0].String()
	defer c.CloseIdleConnections()
	if got := send(t, c, notification(device)); !got.Sent() {
		t.Errorf("got %+v", got)
	}
}

func TestApns2SendsEveryPushType(t *testing.T) {
	m := mockprovider.Start(t)
	c := newAPNsClient(t, m)
	for kind, suffix := range map[apns2.EPushType]string{
		apns2.PushTypeAlert: "", apns2.PushTypeBackground: "", apns2.PushTypeMDM: "", apns2.PushTypeLocation: ".location-query",
		apns2.PushTypeVOIP: ".voip", apns2.PushTypeComplication: ".complication", apns2.PushTypeFileProvider: ".pushkit.fileprovider",
		apns2.PushTypeLiveActivity: ".push-type.liveactivity", apns2.PushTypePushToTalk: ".voip-ptt",
		"widgets": ".push-type.widgets", "controls": ".push-type.controls",
	} {
		n := notification(device)
		n.PushType, n.Topic, n.Priority = kind, "com.example.app"+suffix, apns2.PriorityLow
		if got := send(t, c, n); !got.Sent() {
			t.Errorf("%s: got %+v", kind, got)
		}
	}
}

func TestApns2ReadsEveryDocumentedError(t *testing.T) {
	m := mockprovider.Start(t)
	c := newAPNsClient(t, m)
	for reason, status := range map[string]int{
		apns2.ReasonBadCollapseID: 400, apns2.ReasonBadDeviceToken: 400, apns2.ReasonBadExpirationDate: 400,
		apns2.ReasonBadMessageID: 400, apns2.ReasonBadPriority: 400, apns2.ReasonBadTopic: 400,
		apns2.ReasonDeviceTokenNotForTopic: 400, apns2.ReasonDuplicateHeaders: 400, apns2.ReasonIdleTimeout: 400,
		apns2.ReasonInvalidPushType: 400, apns2.ReasonMissingDeviceToken: 400, apns2.ReasonMissingTopic: 400,
		apns2.ReasonPayloadEmpty: 400, apns2.ReasonTopicDisallowed: 400,
		apns2.ReasonBadCertificate: 403, apns2.ReasonBadCertificateEnvironment: 403, apns2.ReasonExpiredProviderToken: 403,
		apns2.ReasonForbidden: 403, apns2.ReasonInvalidProviderToken: 403, apns2.ReasonMissingProviderToken: 403,
		apns2.ReasonBadPath: 404, apns2.ReasonMethodNotAllowed: 405, apns2.ReasonExpiredToken: 410, apns2.ReasonUnregistered: 410,
		apns2.ReasonPayloadTooLarge: 413, apns2.ReasonTooManyProviderTokenUpdates: 429, apns2.ReasonTooManyRequests: 429,
		apns2.ReasonInternalServerError: 500, apns2.ReasonServiceUnavailable: 503, apns2.ReasonShutdown: 503,
	} {
		setScript(t, m, mockprovider.Fault{Service: mockprovider.APNs, Status: status, Reason: reason})
		got := send(t, c, notification(device))
		if got.StatusCode != status || got.Reason != reason || got.ApnsID == "" || (status == 410) == got.Timestamp.IsZero() {
			t.Errorf("%d %s: got %+v", status, reason, got)
		}
	}
}

// The mock rejects these notifications without a script, as APNs does.
func TestApns2GetsReasonsForInvalidNotifications(t *testing.T) {
	m := mockprovider.Start(t)
	c := newAPNsClient(t, m)
	for reason, change := range map[string]func(*apns2.Notification){
		apns2.ReasonBadDeviceToken:         func(n *apns2.Notification) { n.DeviceToken = "xyz" },
		apns2.ReasonDeviceTokenNotForTopic: func(n *apns2.Notification) { n.DeviceToken = "bad00001" + device[8:] },
		apns2.ReasonUnregistered:           func(n *apns2.Notification) { n.DeviceToken = "dead0000" + device[8:] },
		apns2.ReasonMissingTopic:           func(n *apns2.Notification) { n.Topic = "" },
		apns2.ReasonTopicDisallowed:        func(n *apns2.Notification) { n.Topic = "com.example.other" },
		apns2.ReasonBadTopic:               func(n *apns2.Notification) { n.PushType = apns2.PushTypeVOIP },
		apns2.ReasonInvalidPushType:        func(n *apns2.Notification) { n.PushType = "loud" },
		apns2.ReasonBadPriority:            func(n *apns2.Notification) { n.Priority = 7 },
		apns2.ReasonBadMessageID:           func(n *apns2.Notification) { n.ApnsID = "1" },
		apns2.ReasonBadCollapseID:          func(n *apns2.Notification) { n.CollapseID = strings.Repeat("x", 65) },
		apns2.ReasonPayloadTooLarge:        func(n *apns2.Notification) { n.Payload = `{"a":"` + strings.Repeat("x", 4096) + `"}` },
		apns2.ReasonPayloadEmpty:           func(n *apns2.Notification) { n.Payload = "[]" },
	} {
		n := notification(device)
		change(n)
		if got := send(t, c, n); got.Reason != reason {
			t.Errorf("got %+v, want %s", got, reason)
		}
	}
}

func TestApns2ReconnectsAfterEveryGoAway(t *testing.T) {
	m := mockprovider.Start(t)
	c := newAPNsClient(t, m)
	if got := send(t, c, notification(device)); !got.Sent() { // raises the stream limit
		t.Fatalf("got %+v", got)
	}
	setScript(t, m, mockprovider.Fault{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{Every: 10}})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range 20 {
				if got, err := c.PushWithContext(testContext(t), notification(device)); err != nil || !got.Sent() {
					t.Errorf("got %+v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
	s := m.Ledger().Summary().Services[mockprovider.APNs]
	if s.Accepted < 101 || s.Dials < 8 {
		t.Errorf("%d accepted over %d connections", s.Accepted, s.Dials)
	}
}
