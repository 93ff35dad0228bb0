// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"fmt"
	"strings"
)

// Query selects entries. A zero field matches all.
type Query struct {
	Service  string
	Endpoint string // address
	Token    string // exact, or a prefix followed by *; the hex digits of an APNs token in either case
	ID       string // compared case-insensitively
	Reason   string
	Status   int
	Accepted *bool
	After    uint64 // selects entries with a greater Seq
	Limit    int    // at most this many, the newest ones; 0 for no limit
}

func (q *Query) matches(r *Record) bool {
	return (q.Service == "" || q.Service == r.Endpoint.Service) &&
		(q.Endpoint == "" || q.Endpoint == r.Endpoint.Addr) &&
		(matchesToken(q.Token, r.Token) || r.Endpoint.Service == "apns" && matchesToken(strings.ToLower(q.Token), r.Token)) &&
		(q.ID == "" || strings.EqualFold(q.ID, r.ID)) &&
		(q.Reason == "" || q.Reason == r.Reason) &&
		(q.Status == 0 || q.Status == int(r.Status)) &&
		(q.Accepted == nil || *q.Accepted == r.Accepted)
}

// matchesToken reports whether token is pattern, or begins with what precedes its final *. An empty
// pattern matches every token.
func matchesToken(pattern, token string) bool {
	prefix, wildcard := strings.CutSuffix(pattern, "*")
	return pattern == "" || pattern == token || wildcard && strings.HasPrefix(token, prefix)
}

// describe lists the conditions of the query for an error message, without the device token.
func (q Query) describe() string {
	var b strings.Builder
	add := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, " %s=%s", name, value)
		}
	}
	add("service", q.Service)
	add("endpoint", q.Endpoint)
	add("id", q.ID)
	add("reason", q.Reason)
	add("status", fmt.Sprint(q.Status))
	add("after", fmt.Sprint(q.After))
	if q.Token != "" {
		add("token", "…")
	}
	if q.Accepted != nil {
		add("accepted", fmt.Sprint(*q.Accepted))
	}
	return b.String()
}
