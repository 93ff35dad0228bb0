// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"sync"

	"github.com/go-chi/chi/v5"

	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/loglimit"
)

// auditedRoutes are the requests that the audit log records for every caller.
var auditedRoutes = map[string]string{
	"DELETE /v1/apps/{app}/notifications/{id}":   "notification.cancel",
	"POST /v1/apps/{app}/channels":               "channel.create",
	"DELETE /v1/apps/{app}/channels/{id}":        "channel.delete",
	"POST /v1/apps/{app}/fcm/topics/subscribe":   "topic.subscribe",
	"POST /v1/apps/{app}/fcm/topics/unsubscribe": "topic.unsubscribe",
	"GET /v1/audit": "audit.read",

	"POST /v1/apps/{app}/broadcasts":                "broadcast.create",
	"PUT /v1/apps/{app}/broadcasts/{id}":            "broadcast.replace",
	"DELETE /v1/apps/{app}/broadcasts/{id}":         "broadcast.delete",
	"PUT /v1/apps/{app}/broadcasts/{id}/audience":   "broadcast.upload",
	"PATCH /v1/apps/{app}/broadcasts/{id}/audience": "broadcast.upload",
	"GET /v1/apps/{app}/broadcasts/{id}/results":    "broadcast.export",
	"POST /v1/apps/{app}/broadcasts/{id}/{command}": "broadcast.", // and the command
}

// anonymousRefusals limits the records of requests without a valid credential, by reason: everybody who can
// connect could otherwise replace the records of others.
type anonymousRefusals struct{ byReason sync.Map } // of *loglimit.Limit

// allow reports whether a refusal is recorded, and how many were not since the last one.
func (a *anonymousRefusals) allow(reason string) (skipped int64, ok bool) {
	limit, _ := a.byReason.LoadOrStore(reason, new(loglimit.Limit))
	return limit.(*loglimit.Limit).Allow()
}

// auditRequest records a request that has ended, if it is one that the audit log records.
func (s *server) auditRequest(w *response, r *http.Request) {
	record := auditlog.Record{
		Action: auditedRoutes[r.Method+" "+routeOf(r)], Result: "ok", Caller: w.key, App: w.app, RequestID: w.requestID,
		Subject: cmp.Or(chi.URLParam(r, "id"), w.subject), Count: int64(w.count),
	}
	if command := chi.URLParam(r, "command"); command != "" {
		if record.Action += command; w.status == http.StatusNotFound { // perhaps not a command
			record.Action = "broadcast.command"
		}
	}
	caller := w.access.caller
	if caller != nil {
		record.Kind = string(caller.Kind)
		if record.Caller == "" {
			record.Caller = caller.Name
		}
	}
	switch refused := w.status == http.StatusUnauthorized || w.status == http.StatusForbidden || w.problem == callerLimit.slug; {
	case refused && caller == nil:
		skipped, ok := s.anonymous.allow(w.cause)
		if !ok {
			return
		}
		record.Action, record.Count, record.Subject = "request.refused", skipped+1, ""
	case refused:
		record.Action, record.Subject = "request.refused", ""
	case record.Action != "":
	case w.count > 0:
		if !s.auditSends {
			return
		}
		record.Action = "send"
	case caller != nil && caller.IsAdmin():
		record.Action, record.Subject = "admin.request", ""
	default:
		return
	}
	if w.status >= 400 {
		if record.Result = w.cause; record.Result == "" {
			record.Result = w.problem
		}
	}
	if record.Action == "request.refused" || record.Action == "admin.request" {
		record.Details = []string{r.Method + " " + routeOf(r)}
	}
	record.Address = CallerAddress(r, s.trustedProxies)
	s.audit.Add(record)
}

const defaultAuditPage, maxAuditPage = 100, 1000

// readAudit handles GET /v1/audit. It returns the records of the audit log, newest first.
func (s *server) readAudit(w *response, r *http.Request) *problem {
	caller, p := s.authenticate(w, r)
	if p != nil {
		return p
	}
	w.access = access{server: s, caller: caller}
	if !caller.IsAdmin() {
		return s.missingScopes(caller, identity.Admin)
	}
	before, err := strconv.ParseUint(orDefault(r.URL.Query().Get("before"), "0"), 10, 63)
	if err != nil {
		return &problem{kind: invalidParameter, field: "before", detail: "must be the value of next in an earlier response"}
	}
	limit, err := strconv.Atoi(orDefault(r.URL.Query().Get("limit"), strconv.Itoa(defaultAuditPage)))
	if err != nil || limit < 1 || limit > maxAuditPage {
		return &problem{kind: invalidParameter, field: "limit", detail: "must be a number from 1 to " + strconv.Itoa(maxAuditPage)}
	}
	ctx, done := s.storageContext(r.Context())
	defer done()
	records, next, err := s.audit.Read(ctx, before, limit)
	if errors.Is(err, auditlog.ErrNotStored) {
		return &problem{kind: needsQueue, detail: "the audit log is stored only with audit_log.enabled and a queue; without a queue it is in the log of the gateway"}
	}
	if err != nil {
		return s.storageUnavailable(r.Context(), err)
	}
	page := struct {
		Records []auditlog.Record `json:"records"`
		Next    string            `json:"next,omitempty"`
	}{Records: records}
	if records == nil {
		page.Records = []auditlog.Record{}
	}
	if next > 0 {
		page.Next = strconv.FormatUint(next, 10)
	}
	return replyJSON(w, http.StatusOK, page)
}

func orDefault(text, value string) string {
	if text == "" {
		return value
	}
	return text
}
