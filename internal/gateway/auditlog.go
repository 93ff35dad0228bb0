// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/identity"
)

// AuditLog returns the record of who did what. It is nil if it is off; a nil log can be used.
func (g *Gateway) AuditLog() *auditlog.Log { return g.audit }

// gatewayName identifies this gateway in the audit log of a cluster.
func gatewayName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// resultOf returns the result of an action for the audit log.
func resultOf(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// auditSession records a sign-in to the console or a sign-out. What is done there are calls of the API, which
// records them.
func (g *Gateway) auditSession(action string, caller *identity.Caller, address, result string) {
	r := auditlog.Record{Action: action, Result: result, Address: address}
	if caller != nil {
		r.Caller, r.Kind = caller.Name, string(caller.Kind)
	}
	g.audit.Add(r)
}

// auditAdmin records the requests to the admin listener, which has no callers, except for those of
// monitoring and of the console.
func (g *Gateway) auditAdmin(next http.Handler) http.Handler {
	if g.audit == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if next.ServeHTTP(w, r); strings.HasPrefix(r.URL.Path, console.Path) {
			return
		}
		switch r.Pattern {
		case "", "GET /metrics", "GET /v1/status", "GET /readyz", "GET /livez":
			return
		}
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = ""
		}
		g.audit.Add(auditlog.Record{Action: "admin.request", Result: "ok", Address: host, Details: []string{strings.TrimSuffix(r.Pattern, "/") + " on the admin listener"}})
	})
}
