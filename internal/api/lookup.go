// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// find handles GET /v1/apps/{app}/notifications/{id}. It returns the current receipt and the events
// of a notification.
func (s *server) find(w *response, r *http.Request) *problem {
	if s.history == nil {
		return &problem{kind: needsQueue,
			detail: "history needs a queue; without a queue, only the response to the POST has the receipt"}
	}
	id, p := notificationID(r)
	if p != nil {
		return p
	}
	receipt, events, err := s.history.Find(r.Context(), w.app, id)
	if err != nil {
		return s.lookupProblem(r, err)
	}
	text, err := json.Marshal(publicEvents(events))
	if err != nil {
		return &problem{kind: internal, detail: "the events cannot be encoded"}
	}
	body := receipt.AppendJSON(make([]byte, 0, 512+len(text)))
	body = body[:len(body)-1]
	for _, e := range events {
		if len(e.Tags) > 0 {
			tags, _ := json.Marshal(e.Tags) // always succeeds
			body = append(append(body, `,"tags":`...), tags...)
			break
		}
	}
	body = append(append(body, `,"events":`...), text...)
	reply{status: http.StatusOK, contentType: jsonType, body: append(body, "}\n"...)}.write(w)
	return nil
}

// publicEvents removes internal fields from events.
func publicEvents(events []push.Event) []push.Event {
	out := make([]push.Event, len(events))
	for i, e := range events {
		e.KeyHash, e.BodyHash = nil, nil
		out[i] = e
	}
	return out
}

// cancel handles DELETE /v1/apps/{app}/notifications/{id}. It cancels a pending notification.
func (s *server) cancel(w *response, r *http.Request) *problem {
	if s.queue == nil {
		return &problem{kind: needsQueue,
			detail: "there is nothing to cancel: without a queue, notifications are sent synchronously"}
	}
	id, p := notificationID(r)
	if p != nil {
		return p
	}
	ctx, done := s.storageContext(r.Context())
	defer done()
	receipt, err := s.queue.Cancel(ctx, w.app, id)
	if err != nil {
		return s.lookupProblem(r, err)
	}
	if receipt.State != push.StatusCancelled {
		return &problem{kind: notWaiting, receipt: &receipt, detail: "it is too late to cancel: receipt contains the current status"}
	}
	reply{status: http.StatusOK, contentType: jsonType, body: append(receipt.AppendJSON(nil), '\n')}.write(w)
	return nil
}

var noSuchNotification = problem{kind: notFound,
	detail: "this app has no notification with this id, or its history is no longer stored"}

// notificationID returns the ID in the path.
func notificationID(r *http.Request) (string, *problem) {
	id := chi.URLParam(r, "id")
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return "", &noSuchNotification
	}
	return id, nil
}

// lookupProblem returns the problem for an error of Find or Cancel.
func (s *server) lookupProblem(r *http.Request, err error) *problem {
	if errors.Is(err, push.ErrNotFound) {
		return &noSuchNotification
	}
	p := s.storageUnavailable(r.Context(), err)
	p.detail = "repeat the request after the time in Retry-After"
	return p
}
