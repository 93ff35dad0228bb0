// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"slices"

	jsonv2 "github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/push"
)

// Topics manages the FCM topics of registrations. It is safe for concurrent use.
type Topics interface {
	// ManageTopics executes one call. The receipt contains the result. The page is that of a list that is
	// Accepted.
	ManageTopics(ctx context.Context, call push.TopicCall) (push.TopicPage, push.Receipt)
}

// topicChange is the body of a request that changes subscriptions: a topic, and up to maxTargets
// registrations.
type topicChange struct {
	Topic         string   `json:"topic"`
	Tokens        []string `json:"tokens"`
	Installations []string `json:"installations"`
}

// topicQuery is the body of a request that lists the topics of a registration.
type topicQuery struct {
	Token        string `json:"token"`
	Installation string `json:"installation"`
	PageSize     int    `json:"page_size"`
	PageToken    string `json:"page_token"`
}

// subscribeTopic handles POST /v1/apps/{app}/fcm/topics/subscribe.
func (s *server) subscribeTopic(w *response, r *http.Request) *problem {
	return s.changeTopic(w, r, push.SubscribeTopic)
}

// unsubscribeTopic handles POST /v1/apps/{app}/fcm/topics/unsubscribe.
func (s *server) unsubscribeTopic(w *response, r *http.Request) *problem {
	return s.changeTopic(w, r, push.UnsubscribeTopic)
}

// listTopics handles POST /v1/apps/{app}/fcm/topics/list. It is no GET, because a URL must not contain a
// registration.
func (s *server) listTopics(w *response, r *http.Request) *problem {
	if s.topics == nil {
		return invalid("app", "must be configured for FCM; no app of this gateway is")
	}
	var in topicQuery
	if p := s.decodeBody(w, r, &in, `{"token":"…"}`); p != nil {
		return p
	}
	if in.PageSize < 0 || in.PageSize > maxTopicPage {
		return invalid("page_size", "must be a number from 1 to 2,000")
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.SendTimeout)
	defer cancel()
	page, receipt := s.topics.ManageTopics(ctx, push.TopicCall{
		App: w.app, Action: push.ListTopics, Registration: push.Target{Token: in.Token, Installation: in.Installation}, PageSize: in.PageSize, PageToken: in.PageToken,
	})
	switch {
	case receipt.Verdict == push.Accepted:
		return replyJSON(w, http.StatusOK, page)
	case receipt.Verdict == push.Unregistered:
		field := "token"
		if in.Token == "" {
			field = "installation"
		}
		return &problem{kind: notFound, field: field, detail: field + ": " + receipt.Reason + ": the project has no such registration"}
	case receipt.Verdict == push.Refused && len(receipt.Attempts) > 0:
		return withReceipt(&receipt, problem{kind: refusedByProvider, detail: cmp.Or(receipt.Detail, "Google does not accept this request")})
	}
	return problemFor(&receipt)
}

// maxTopicPage is the maximum size of a page of topics: a registration can have no more.
const maxTopicPage = 2000

// changeTopic subscribes or unsubscribes registrations. It responds with a receipt for each, in their
// order.
func (s *server) changeTopic(w *response, r *http.Request, act push.TopicAction) *problem {
	if s.topics == nil {
		return invalid("app", "must be configured for FCM; no app of this gateway is")
	}
	var in topicChange
	if p := s.decodeBody(w, r, &in, `{"topic":"news","tokens":["…"]}`); p != nil {
		return p
	}
	lists := targetLists{Tokens: in.Tokens, Installations: in.Installations}
	if lists.field() == "" || in.Tokens != nil && in.Installations != nil {
		return invalid("tokens", "must be set, or installations instead")
	}
	if p := lists.check(); p != nil {
		return p
	}
	w.subject, w.count = in.Topic, len(in.Tokens)+len(in.Installations)
	receipts := s.changeEach(r.Context(), w.requestID, push.TopicCall{App: w.app, Action: act, Topic: in.Topic}, &lists)
	if r.Context().Err() != nil {
		return nil
	}
	body := []byte(`{"receipts":[`)
	for i := range receipts {
		receipt := &receipts[i]
		if receipt.Verdict == push.Refused && len(receipt.Attempts) == 0 && (receipt.Field == "topic" || receipt.Field == "app") { // of all registrations
			return invalidNotification(receipt)
		}
		body = append(receipt.AppendJSON(body), ',')
	}
	body = append(body[:len(body)-1], "]}\n"...)
	reply{status: http.StatusOK, contentType: jsonType, body: body}.write(w)
	return nil
}

// changeEach makes one call for each registration, and returns their receipts.
func (s *server) changeEach(ctx context.Context, requestID string, call push.TopicCall, lists *targetLists) []push.Receipt {
	ctx, cancel := context.WithTimeout(ctx, s.limits.SendTimeout)
	defer cancel()
	targets := lists.targets()
	receipts := make([]push.Receipt, len(targets))
	seen := make(map[string]entry, len(targets))
	var calls errgroup.Group
	calls.SetLimit(s.limits.InFlight)
	for i, target := range targets {
		at := entry{lists.field(), i}
		receipts[i].TargetIndex = &at.index
		first, duplicate := seen[target.Key()]
		switch {
		case target.Key() == "":
			receipts[i].Outcome = push.InvalidNotification(&push.FieldError{Field: at.String(), Reason: invalidField.reason, Allowed: "not empty"})
			continue
		case duplicate:
			receipts[i].Outcome = push.InvalidNotification(&push.FieldError{Field: at.String(), Reason: invalidField.reason, Allowed: "different from " + first.String()})
			continue
		}
		seen[target.Key()] = at
		each := call
		each.Registration = target
		calls.Go(func() error {
			receipt := s.changeOne(ctx, each, requestID)
			receipt.TargetIndex, receipt.Field, receipt.Detail = &at.index, at.rename(receipt.Field), at.rename(receipt.Detail)
			receipts[at.index] = receipt
			return nil
		})
	}
	_ = calls.Wait() // the calls return no error
	return receipts
}

// changeOne makes one call. A panic affects only its receipt.
func (s *server) changeOne(ctx context.Context, call push.TopicCall, requestID string) (receipt push.Receipt) {
	defer func() {
		if panicked := recover(); panicked != nil {
			s.logPanic(ctx, panicked, requestID)
			receipt = internalReceipt(&push.Notification{})
		}
	}()
	_, receipt = s.topics.ManageTopics(ctx, call)
	return receipt
}

// decodeBody reads a JSON object. example is a valid one.
func (s *server) decodeBody(w *response, r *http.Request, in any, example string) *problem {
	if _, p := bodyType(r, "application/json"); p != nil {
		return p
	}
	body := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(body)
	if p := s.readBody(w, r, body); p != nil {
		return p
	}
	text := slices.Clone(body.Bytes()) // raw parts of the value refer to it
	err := jsonv2.Unmarshal(text, in, strict)
	if err == nil {
		return nil
	}
	p := mapDecodeError(err, text)
	if p.kind == invalidField && p.field == "" {
		p.detail = "must be one JSON object, such as " + example
	}
	return p
}
