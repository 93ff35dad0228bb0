// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func toRegistration(t push.Target) *push.Notification {
	return &push.Notification{ID: "eabeae54-14a8-11e5-b60b-1697f925ec7b", Platform: push.FCM, AcceptedAt: time.Now(), Target: t}
}

func TestTopicRequests(t *testing.T) {
	p := newProvider(t)
	const base = "/registrations/"
	for want, c := range map[string]struct {
		call   push.TopicCall
		target push.Target
	}{
		"POST a:b_-/topicSubscriptions?topicName=news {}":              {push.TopicCall{Topic: "news"}, push.Target{Token: "a:b_-"}},
		"POST FID/topicSubscriptions?topicName=a.b-c_d~%2541 {}":       {push.TopicCall{Topic: "a.b-c_d~%41"}, push.Target{Installation: "FID"}},
		"DELETE a:b/topicSubscriptions/a%2541~?allowMissing=true ":     {push.TopicCall{Action: push.UnsubscribeTopic, Topic: "a%41~"}, push.Target{Token: "a:b"}},
		"GET a:b/topicSubscriptions ":                                  {push.TopicCall{Action: push.ListTopics}, push.Target{Token: "a:b"}},
		"GET a:b/topicSubscriptions?pageSize=7&pageToken=x%2F%26y%3D ": {push.TopicCall{Action: push.ListTopics, PageSize: 7, PageToken: "x/&y="}, push.Target{Token: "a:b"}},
	} {
		r, err := p.TopicOperation(c.call).Translate(toRegistration(c.target))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(r.Path, base)
		if got := r.Method + " " + rest + " " + string(r.Body); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, relative := range []string{".", ".."} {
		call := push.TopicCall{Action: push.UnsubscribeTopic, Topic: relative}
		if r, err := p.TopicOperation(call).Translate(toRegistration(push.Target{Token: "a:b"})); err == nil {
			t.Errorf("%s is the path of another resource", r.Path)
		}
	}
	for want, c := range map[string]struct {
		call   push.TopicCall
		target push.Target
	}{
		"topic: must be 1 to 900 letters, digits and - _ . ~ %, without /topics/": {push.TopicCall{Topic: "a/b"}, push.Target{Token: "a:b"}},
		"token: must be set, or installation instead, and no other target":        {push.TopicCall{Topic: "a"}, push.Target{Topic: "a"}},
		"installation: must be a Firebase installation ID: letters, digits, underscores and hyphens": {
			push.TopicCall{Topic: "a"}, push.Target{Installation: "../x"}},
		"page_size: must be 1 to 2000":                           {push.TopicCall{Action: push.ListTopics, PageSize: -1}, push.Target{Token: "a:b"}},
		"page_token: must be next_page_token of the page before": {push.TopicCall{Action: push.ListTopics, PageToken: strings.Repeat("x", 2049)}, push.Target{Token: "a:b"}},
	} {
		_, err := p.TopicOperation(c.call).Translate(toRegistration(c.target))
		if field, ok := errors.AsType[*push.FieldError](err); !ok || field.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestTopicResponses(t *testing.T) {
	p := newProvider(t)
	message := func(code, text string) string {
		return `{"error":{"code":0,"message":"` + text + `","status":"` + code + `"}}`
	}
	const fcmError = `{"error":{"status":"NOT_FOUND","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}`
	for _, c := range []struct {
		action  push.TopicAction
		status  int
		body    string
		verdict push.Verdict
		reason  string
		forget  bool
		scope   push.Scope
	}{
		{push.SubscribeTopic, 200, `{"name":"projects/p/registrations/a:b/topicSubscriptions/t"}`, push.Accepted, "", false, push.ScopeNone},
		{push.SubscribeTopic, 200, `{}`, push.Unavailable, "INTERMEDIARY_RESPONSE", false, push.ScopeEndpoint},
		{push.SubscribeTopic, 200, `<html>`, push.Unavailable, "INTERMEDIARY_RESPONSE", false, push.ScopeEndpoint},
		{push.SubscribeTopic, 409, message("ALREADY_EXISTS", ""), push.Accepted, "", false, push.ScopeNone},
		{push.UnsubscribeTopic, 409, message("ALREADY_EXISTS", ""), push.Refused, "ALREADY_EXISTS", false, push.ScopeNone},
		{push.UnsubscribeTopic, 200, `{}`, push.Accepted, "", false, push.ScopeNone},
		{push.UnsubscribeTopic, 200, ``, push.Unavailable, "INTERMEDIARY_RESPONSE", false, push.ScopeEndpoint},
		{push.SubscribeTopic, 404, message("NOT_FOUND", ""), push.Unregistered, "NOT_FOUND", false, push.ScopeNone},
		{push.SubscribeTopic, 404, fcmError, push.Unregistered, "UNREGISTERED", true, push.ScopeNone},
		{push.SubscribeTopic, 400, message("FAILED_PRECONDITION", "Subscribed to too many topics."), push.Refused, "TOO_MANY_TOPICS", false, push.ScopeNone},
		{push.SubscribeTopic, 400, message("FAILED_PRECONDITION", "Something else."), push.Refused, "FAILED_PRECONDITION", false, push.ScopeNone},
		{push.SubscribeTopic, 403, message("PERMISSION_DENIED", ""), push.Unauthorized, "PERMISSION_DENIED", false, push.ScopeCredential},
		{push.SubscribeTopic, 429, message("RESOURCE_EXHAUSTED", "Quota exceeded."), push.Throttled, "RESOURCE_EXHAUSTED", false, push.ScopeProject},
		{push.SubscribeTopic, 503, message("UNAVAILABLE", ""), push.Unavailable, "UNAVAILABLE", false, push.ScopeEndpoint},
		{push.SubscribeTopic, 502, `<html>`, push.Unavailable, "INTERMEDIARY_RESPONSE", false, push.ScopeEndpoint},
		{push.ListTopics, 200, `{}`, push.Accepted, "", false, push.ScopeNone},
	} {
		operation := p.TopicOperation(push.TopicCall{Action: c.action, Topic: "t"})
		o := operation.Judge(toRegistration(push.Target{Token: "a:b"}), nil, &wire.Response{Status: c.status, Body: []byte(c.body)}, nil)
		if o.Verdict != c.verdict || o.Reason != c.reason || o.ForgetToken != c.forget || o.Scope != c.scope {
			t.Errorf("%d %s: %+v, want %v %s", c.status, c.body, o, c.verdict, c.reason)
		}
	}
	for _, body := range []string{
		`{"topic_subscriptions":[{"name":"projects/p/registrations/a:b/topicSubscriptions/t","topic_name":"t","create_time":"2026-11-22T07:08:09.5Z"}],"next_page_token":"n"}`,
		`{"topicSubscriptions":[{"name":"projects/p/registrations/a:b/topicSubscriptions/t","createTime":"2026-11-22T07:08:09.5Z"}],"nextPageToken":"n"}`,
	} {
		operation := p.TopicOperation(push.TopicCall{Action: push.ListTopics})
		operation.Judge(toRegistration(push.Target{Token: "a:b"}), nil, &wire.Response{Status: 200, Body: []byte(body)}, nil)
		page := operation.Page()
		if len(page.Topics) != 1 || page.NextPageToken != "n" || page.Topics[0] != (push.TopicSubscription{Topic: "t", CreatedAt: time.Date(2026, 11, 22, 7, 8, 9, 5e8, time.UTC)}) {
			t.Errorf("%s: %+v", body, page)
		}
	}
}
