// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"testing"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/errorutils"
	"firebase.google.com/go/v4/messaging"
	"google.golang.org/api/option"

	"github.com/sluice-push/sluice/mockprovider"
)

const registrationToken = "dGhpcy1pcy1hLUZJRC0wMQ:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"

// newFirebaseClient returns a client of firebase-admin-go with the service account of the mock, whose
// token_uri is the mock's token endpoint.
func newFirebaseClient(t *testing.T, m *mockprovider.Mock) *messaging.Client {
	t.Helper()
	account, err := m.ServiceAccount()
	if err != nil {
		t.Fatal(err)
	}
	app, err := firebase.NewApp(t.Context(), &firebase.Config{ProjectID: m.ProjectID()},
		option.WithCredentialsJSON(account), option.WithEndpoint(m.FCMURL()+"/v1"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := app.Messaging(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newMessage(to string) *messaging.Message {
	return &messaging.Message{Token: to, Notification: &messaging.Notification{Title: "Hello", Body: "World"}, Data: map[string]string{"k": "v"}}
}

func TestFirebaseIsAccepted(t *testing.T) {
	m := mockprovider.Start(t)
	c := newFirebaseClient(t, m)
	ttl := time.Hour
	for _, msg := range []*messaging.Message{
		newMessage(registrationToken),
		{Topic: "news"}, {Condition: "'a' in topics && 'b' in topics"},
		{Token: registrationToken, Android: &messaging.AndroidConfig{TTL: &ttl, Priority: "high", CollapseKey: "k",
			Notification: &messaging.AndroidNotification{Title: "t", Color: "#00ff00", Priority: messaging.PriorityHigh}}},
		{Token: registrationToken, APNS: &messaging.APNSConfig{Headers: map[string]string{"apns-priority": "5"},
			Payload: &messaging.APNSPayload{Aps: &messaging.Aps{Sound: "default"}}}},
		{Token: registrationToken, Webpush: &messaging.WebpushConfig{Notification: &messaging.WebpushNotification{Title: "t"}}},
	} {
		id, err := c.Send(testContext(t), msg)
		if err != nil {
			t.Errorf("%+v: %v", msg, err)
			continue
		}
		m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM, ID: id, Status: 200}, 1)
	}
	if id, err := c.SendDryRun(testContext(t), newMessage(registrationToken)); err != nil || id != "projects/demo-project/messages/fake_message_id" {
		t.Errorf("dry run: %q, %v", id, err)
	}
}

func TestFirebaseReadsEveryDocumentedError(t *testing.T) {
	m := mockprovider.Start(t)
	c := newFirebaseClient(t, m)
	for to, is := range map[string]func(error) bool{
		"a:dead":       messaging.IsUnregistered,
		"a:dead-ios":   messaging.IsUnregistered,
		"a:bad":        messaging.IsInvalidArgument,
		"nocolon":      messaging.IsInvalidArgument,
		"a:mismatch":   messaging.IsSenderIDMismatch,
		"a:thirdparty": messaging.IsThirdPartyAuthError,
		"a:quota":      messaging.IsQuotaExceeded,
		"a:ratelimit":  errorutils.IsResourceExhausted,
		"a:internal":   messaging.IsInternal,
	} {
		if _, err := c.Send(testContext(t), newMessage(to)); err == nil || !is(err) {
			t.Errorf("%s: got %v", to, err)
		}
	}
	setScript(t, m, mockprovider.Fault{Service: mockprovider.FCM, Status: 503, RetryAfter: 3 * time.Minute}) // longer than the client waits
	if _, err := c.Send(testContext(t), newMessage(registrationToken)); err == nil || !messaging.IsUnavailable(err) {
		t.Errorf("503: got %v", err)
	}
	setScript(t, m)
	m.ExpireAccessTokens()
	if _, err := c.Send(testContext(t), newMessage(registrationToken)); err == nil || !errorutils.IsUnauthenticated(err) {
		t.Errorf("expired access token: got %v", err)
	}
}

func TestFirebaseRetriesAfter503(t *testing.T) {
	m := mockprovider.Start(t)
	setScript(t, m, mockprovider.Fault{Service: mockprovider.FCM, Status: 503, Times: 1})
	if _, err := newFirebaseClient(t, m).Send(testContext(t), newMessage(registrationToken)); err != nil {
		t.Error(err)
	}
	m.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.FCM, Token: registrationToken}, 2)
}

func TestFirebaseReconnectsAfterEveryGoAway(t *testing.T) {
	m := mockprovider.Start(t)
	c := newFirebaseClient(t, m)
	setScript(t, m, mockprovider.Fault{Service: mockprovider.FCM, GoAway: &mockprovider.GoAway{Every: 5, Debug: "session_timed_out"}})
	messages := make([]*messaging.Message, 100)
	for i := range messages {
		messages[i] = newMessage(registrationToken)
	}
	batch, err := c.SendEach(testContext(t), messages)
	if err != nil || batch.SuccessCount != 100 {
		t.Fatalf("%+v, %v", batch, err)
	}
	if s := m.Ledger().Summary().Services[mockprovider.FCM]; s.Dials < 5 {
		t.Errorf("%d connections", s.Dials)
	}
}
