// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"cmp"
	"context"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// TopicOperation runs one call to the topic subscriptions of a registration and keeps its result. It has
// the methods of a provider, so that a call waits, retries and is limited as a notification is.
// Firebase, "REST Resource: projects.registrations.topicSubscriptions", read 2026-11-30. The path of its
// requests contains the registration, which is secret.
type TopicOperation struct {
	provider *Provider
	call     push.TopicCall
	page     push.TopicPage
}

// TopicOperation returns the operation for one call. Use it for that call only.
func (p *Provider) TopicOperation(call push.TopicCall) *TopicOperation {
	return &TopicOperation{provider: p, call: call}
}

// Page returns the page of an accepted list.
func (o *TopicOperation) Page() push.TopicPage { return o.page }

// MaxTopicPage is the maximum size of a page of topics, and how many topics a registration can have.
const MaxTopicPage = 2000

// maxPageToken bounds the length of a URL.
const maxPageToken = 2048

// CheckTopic checks the name of a topic. The error is a *push.FieldError.
func CheckTopic(topic string) error {
	if !isTopic(topic) || topic == "." || topic == ".." { // a topic is the last part of a path
		return invalid("topic", invalidTarget, topicFormat)
	}
	return nil
}

// Translate returns the call as a request without the access token. n has the registration as its
// target.
func (o *TopicOperation) Translate(n *push.Notification) (*wire.Request, error) {
	if kind := n.Kind(); kind != push.ToToken && kind != push.ToInstallation {
		return nil, invalid("token", invalidTarget, "set, or installation instead, and no other target")
	}
	if err := checkTarget(&n.Target); err != nil {
		return nil, err
	}
	at := "/v1/projects/" + o.provider.project + "/registrations/" + n.Key() + "/topicSubscriptions"
	if o.call.Action == push.ListTopics {
		query, err := o.listQuery()
		return &wire.Request{Method: "GET", Path: at + query}, err
	}
	if err := CheckTopic(o.call.Topic); err != nil {
		return nil, err
	}
	if o.call.Action == push.UnsubscribeTopic {
		return &wire.Request{Method: "DELETE", Path: at + "/" + url.PathEscape(o.call.Topic) + "?allowMissing=true"}, nil
	}
	return &wire.Request{Method: "POST", Path: at + "?topicName=" + url.QueryEscape(o.call.Topic), Header: header, Body: []byte("{}")}, nil
}

func (o *TopicOperation) listQuery() (string, error) {
	query := url.Values{}
	switch {
	case o.call.PageSize < 0 || o.call.PageSize > MaxTopicPage:
		return "", invalid("page_size", invalidField, "1 to "+strconv.Itoa(MaxTopicPage))
	case len(o.call.PageToken) > maxPageToken:
		return "", invalid("page_token", invalidField, "next_page_token of the page before")
	}
	if o.call.PageSize > 0 {
		query.Set("pageSize", strconv.Itoa(o.call.PageSize))
	}
	if o.call.PageToken != "" {
		query.Set("pageToken", o.call.PageToken)
	}
	if len(query) == 0 {
		return "", nil
	}
	return "?" + query.Encode(), nil
}

// Sign is Provider.Sign.
func (o *TopicOperation) Sign(ctx context.Context, n *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	return o.provider.Sign(ctx, n)
}

// tooManyTopics is the reason if a registration has as many topics as it can have. It is the name of the
// error in the older API of Instance ID.
const tooManyTopics = "TOO_MANY_TOPICS"

// Judge returns the outcome of an attempt. For a registration that does not exist, the verdict is
// Unregistered. A subscription that exists already is Accepted.
func (o *TopicOperation) Judge(n *push.Notification, used any, resp *wire.Response, err error) push.Outcome {
	if err != nil {
		return push.NoResponse(err)
	}
	if resp.Status/100 == 2 {
		if !o.parseResponse(resp.Body) {
			return push.Intermediary(resp.Status, resp.RetryAfter())
		}
		return push.Outcome{Verdict: push.Accepted, HTTP: resp.Status}
	}
	f, ok := parseError(resp)
	switch {
	case !ok:
		return push.Intermediary(resp.Status, resp.RetryAfter())
	case o.call.Action == push.SubscribeTopic && f.statusName == "ALREADY_EXISTS":
		return push.Outcome{Verdict: push.Accepted, HTTP: resp.Status}
	case o.call.Action == push.SubscribeTopic && f.isTooManyTopics():
		return push.Outcome{Verdict: push.Refused, Reason: tooManyTopics, HTTP: resp.Status,
			Detail: "a registration can be subscribed to at most 2,000 topics: unsubscribe it from others"}
	}
	out, renew := f.outcome(resp, &n.Target)
	switch {
	case out.Reason == "NOT_FOUND" && f.fcmError == "": // the URL has no other part that can be unknown, except for the project
		out.Verdict, out.Detail = push.Unregistered, "the project has no such registration"
	case out.Reason == "PERMISSION_DENIED":
		out.Detail = "the service account must not manage topic subscriptions in this project: check project_id, and grant it the role Firebase Cloud Messaging API Admin"
	}
	if t, ok := used.(*token); ok && renew {
		out.Renewed = o.provider.tokens.invalidate(t)
	}
	return out
}

// isTooManyTopics reports whether the registration has as many topics as it can have. The reference does
// not document this error.
func (f *errorBody) isTooManyTopics() bool {
	return f.status/100 == 4 && (f.fcmError == tooManyTopics || f.errorInfo == tooManyTopics || strings.Contains(strings.ToLower(f.message), "too many topics"))
}

// parseResponse sets the page from a response, and reports whether it is one of FCM.
func (o *TopicOperation) parseResponse(body []byte) bool {
	// The reference has the names with underscores; clients that are generated from the discovery
	// document have them in camel case.
	type subscription struct {
		Name       string    `json:"name"`
		Topic      string    `json:"topic_name"`
		CamelTopic string    `json:"topicName"`
		CreateTime time.Time `json:"create_time"`
		CamelTime  time.Time `json:"createTime"`
	}
	var in struct {
		Name          string         `json:"name"`
		Subscriptions []subscription `json:"topic_subscriptions"`
		Next          string         `json:"next_page_token"`
		CamelSubs     []subscription `json:"topicSubscriptions"`
		CamelNext     string         `json:"nextPageToken"`
	}
	if json.Unmarshal(body, &in, lenient) != nil {
		return false
	}
	switch o.call.Action {
	case push.SubscribeTopic:
		return strings.HasPrefix(in.Name, "projects/")
	case push.ListTopics:
		o.page = push.TopicPage{Topics: []push.TopicSubscription{}, NextPageToken: cmp.Or(in.Next, in.CamelNext)}
		for _, s := range append(in.Subscriptions, in.CamelSubs...) {
			created := s.CreateTime
			if created.IsZero() {
				created = s.CamelTime
			}
			o.page.Topics = append(o.page.Topics, push.TopicSubscription{Topic: cmp.Or(s.Topic, s.CamelTopic, path.Base(s.Name)), CreatedAt: created})
		}
	}
	return true
}
