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

// find is GET /v1/apps/{app}/notifications/{id}: how a notification stands, and the events that led there.
func (a *server) find(w *response, r *http.Request) *problem {
	if a.history == nil {
		return &problem{kind: needsQueue,
			detail: "history needs a queue; without one the answer to a notification's POST is all of it"}
	}
	id, p := notificationID(r)
	if p != nil {
		return p
	}
	receipt, events, err := a.history.Find(r.Context(), w.app, id)
	if err != nil {
		return a.lookupProblem(r, err)
	}
	text, err := json.Marshal(publicEvents(events))
	if err != nil {
		return &problem{kind: internal, detail: "the events have no JSON form"}
	}
	body := receipt.AppendJSON(make([]byte, 0, 512+len(text)))
	body = append(append(body[:len(body)-1], `,"events":`...), text...)
	reply{status: http.StatusOK, contentType: jsonType, body: append(body, "}\n"...)}.write(w)
	return nil
}

// publicEvents leaves out of events what only the gateway needs.
func publicEvents(events []push.Event) []push.Event {
	out := make([]push.Event, len(events))
	for i, e := range events {
		e.KeyHash, e.BodyHash = nil, nil
		out[i] = e
	}
	return out
}

// cancel is DELETE /v1/apps/{app}/notifications/{id}: it ends a notification that waits.
func (a *server) cancel(w *response, r *http.Request) *problem {
	if a.queue == nil {
		return &problem{kind: needsQueue,
			detail: "there is nothing to cancel: without a queue a notification is sent while its POST waits"}
	}
	id, p := notificationID(r)
	if p != nil {
		return p
	}
	ctx, done := a.storageContext(r.Context())
	defer done()
	receipt, err := a.queue.Cancel(ctx, w.app, id)
	if err != nil {
		return a.lookupProblem(r, err)
	}
	if receipt.State != push.StatusCancelled {
		return &problem{kind: notWaiting, receipt: &receipt, detail: "it is too late to cancel it: receipt tells how it stands"}
	}
	reply{status: http.StatusOK, contentType: jsonType, body: append(receipt.AppendJSON(nil), '\n')}.write(w)
	return nil
}

var noSuchNotification = problem{kind: notFound,
	detail: "this app has no notification with this id, or its history is not kept any more"}

// notificationID is the notification that the path names.
func notificationID(r *http.Request) (string, *problem) {
	id := chi.URLParam(r, "id")
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return "", &noSuchNotification
	}
	return id, nil
}

// lookupProblem is the problem of a question about one notification that got no answer.
func (a *server) lookupProblem(r *http.Request, err error) *problem {
	if errors.Is(err, push.ErrNotFound) {
		return &noSuchNotification
	}
	p := a.storageUnavailable(r.Context(), err)
	p.detail = "ask again after the seconds in Retry-After"
	return &p
}
