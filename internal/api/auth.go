// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// authenticate returns who makes the request.
func (s *server) authenticate(w *response, r *http.Request) (*identity.Caller, *problem) {
	caller, refusal := s.auth.Authenticate(r)
	if refusal == nil {
		return caller, nil
	}
	if caller, ok := r.Context().Value(callerKey{}).(*identity.Caller); ok { // from WithCaller
		return caller, nil
	}
	s.refused("none", refusal.Reason)
	if refusal.RetryAfter > 0 {
		return nil, &problem{kind: issuerUnavailable, cause: refusal.Reason, field: "Authorization", detail: refusal.Detail, retryAfter: refusal.RetryAfter}
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
	return nil, &problem{kind: unauthenticated, cause: refusal.Reason, field: "Authorization", detail: refusal.Detail}
}

// refused reports that a request is refused because of its caller. kind is that of its credential, or
// none if the caller is unknown.
func (s *server) refused(kind identity.Kind, reason string) {
	if s.refusal != nil {
		s.refusal(kind, reason)
	}
}

// toSend are the scopes of which a request that sends needs one. checkTarget checks the rest.
const toSend = identity.Send | identity.Broadcasts

// authorize calls h if the caller has one of the scopes in the app of the path. The problem for an
// app that does not exist is the same as for another app.
func (s *server) authorize(scopes identity.Scopes, h handler) handler {
	return func(w *response, r *http.Request) *problem {
		caller, p := s.authenticate(w, r)
		if p != nil {
			return p
		}
		app := cmp.Or(appOfSend(r), chi.URLParam(r, "app"))
		granted := caller.Scopes(app)
		if granted == 0 {
			w.access.caller = caller
			s.refused(caller.Kind, "wrong_app")
			return &problem{kind: wrongApp, cause: "wrong_app", detail: "a caller may act only for the apps that the configuration lists for its key, token or certificate"}
		}
		w.app, w.key, w.access = app, caller.NameIn(app), access{s, caller, app, scopes}
		if granted&scopes == 0 {
			return s.missingScopes(caller, scopes)
		}
		if scopes != toSend { // requests that send count their notifications
			if p := w.access.takeRate(1); p != nil {
				return p
			}
		}
		setBodyDeadline(w.ResponseWriter, r, time.Now().Add(s.limits.BodyTimeout))
		return h(w, r)
	}
}

func (s *server) missingScopes(caller *identity.Caller, scopes identity.Scopes) *problem {
	s.refused(caller.Kind, "missing_scope")
	return &problem{kind: missingScope, cause: "missing_scope", detail: fmt.Sprintf("this request needs a caller with the scope %s", scopes)}
}

// access is the permission of a request. It follows the configuration while the request is in
// progress. It is not safe for concurrent use.
type access struct {
	server *server // of the configuration in which the caller was last found
	caller *identity.Caller
	app    string
	scopes identity.Scopes // one of them is necessary
}

// changed returns a channel that is closed when the permission must be checked again.
func (a *access) changed() <-chan struct{} { return a.server.replaced }

// check returns a problem if the credential has expired, or if a newer configuration no longer grants
// the permission.
func (a *access) check() *problem {
	if a.caller.Expired() {
		return &problem{kind: unauthenticated, field: "Authorization", detail: "the key, token or certificate has expired during this request"}
	}
	for {
		select {
		case <-a.server.replaced:
		default:
			return nil
		}
		next := a.server.next
		caller := next.auth.Renew(a.caller)
		if caller == nil || caller.Scopes(a.app)&a.scopes == 0 {
			return &problem{kind: unauthenticated, field: "Authorization", detail: "the key, token or certificate is no longer valid for this request"}
		}
		a.server, a.caller = next, caller
	}
}

// checkTarget returns a problem if the caller may not send to the target of n: with the scope
// broadcasts alone, it may send only to topics, conditions and channels.
func (a *access) checkTarget(n *push.Notification) *problem {
	if a.caller.Scopes(a.app)&identity.Send != 0 || n.Topic != "" || n.Condition != "" || n.Channel != "" {
		return nil
	}
	return a.server.missingScopes(a.caller, identity.Send)
}

// takeRate counts n notifications, or one other request, in the rate of the caller.
func (a *access) takeRate(n int) *problem { return a.limitProblem(a.caller.Limits.Take(n)) }

// limitProblem returns the problem of a request that exceeds a limit of its caller. It returns nil for
// nil.
func (a *access) limitProblem(exceeded *identity.Exceeded) *problem {
	if exceeded == nil {
		return nil
	}
	a.server.refused(a.caller.Kind, exceeded.Name)
	return &problem{kind: callerLimit, cause: exceeded.Name, retryAfter: exceeded.RetryAfter,
		detail: fmt.Sprintf("this %s may not send more at present, because %s: wait for the time in Retry-After", a.caller.Kind, exceeded.Detail)}
}

// readableApps returns the apps in which the caller has the scope read.
func (s *server) readableApps(w *response, r *http.Request) ([]string, *problem) {
	caller, p := s.authenticate(w, r)
	if p != nil {
		return nil, p
	}
	w.access = access{server: s, caller: caller}
	apps := caller.Apps(identity.Read)
	if apps == nil {
		return nil, s.missingScopes(caller, identity.Read)
	}
	w.key = caller.NameIn(apps[len(apps)-1])
	return apps, w.access.takeRate(1)
}
