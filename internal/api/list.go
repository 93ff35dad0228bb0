// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
)

// list handles GET /v1/apps/{app}/notifications. It returns notifications of an app, the newest first.
func (s *server) list(w *response, r *http.Request) *problem {
	if s.history == nil {
		return &problem{kind: needsQueue, detail: "the search needs a queue, which records the history of all notifications"}
	}
	q, p := parseQuery(r.URL.Query(), time.Now())
	if p != nil {
		return p
	}
	page, err := s.history.Search(r.Context(), w.app, q)
	if err != nil {
		return s.listProblem(r, err)
	}
	return writeJSON(w, http.StatusOK, page)
}

// stats handles GET /v1/apps/{app}/stats. It returns how many notifications have ended, and how.
func (s *server) stats(w *response, r *http.Request) *problem {
	if s.history == nil {
		return &problem{kind: needsQueue, detail: "statistics need a queue, which records the history of all notifications"}
	}
	params, q := params{given: r.URL.Query()}, push.StatsQuery{}
	q.Tag = params.tag()
	q.Since, q.Until = params.timeRange(time.Now())
	q.By = params.by()
	if p := params.finish(); p != nil {
		return p
	}
	stats, err := s.history.Stats(r.Context(), w.app, q)
	if err != nil {
		return s.listProblem(r, err)
	}
	return writeJSON(w, http.StatusOK, stats)
}

// listProblem returns the problem for an error of Search or Stats.
func (s *server) listProblem(r *http.Request, err error) *problem {
	switch {
	case errors.Is(err, push.ErrCursorExpired):
		return &problem{kind: cursorExpired, field: "cursor", detail: "must be a cursor whose place is still stored: all older notifications are deleted, so this was the last page"}
	case errors.Is(err, push.ErrInvalidCursor):
		return invalidParam("cursor", "must be next_cursor of an earlier page")
	}
	return s.lookupProblem(r, err)
}

func invalidParam(name, allowed string) *problem {
	return &problem{kind: invalidParameter, field: name, detail: name + ": " + allowed}
}

// parseQuery returns the query with these parameters.
func parseQuery(given url.Values, now time.Time) (q push.Query, p *problem) {
	params := params{given: given}
	q.Tag = params.tag()
	q.Statuses = params.statuses("status")
	q.Platform = push.Platform(params.oneOf("platform", string(push.APNs), string(push.FCM), string(push.WebPush)))
	q.Since, q.Until = params.timeRange(now)
	q.Limit = params.limit()
	q.Cursor = params.one("cursor")
	return q, params.finish()
}

// params reads query parameters. After the first invalid one, problem is set.
type params struct {
	given   url.Values
	known   []string
	problem *problem
}

func (p *params) refuse(name, allowed string) {
	if p.problem == nil {
		p.problem = invalidParam(name, allowed)
	}
}

// one returns the value of a parameter that can be given once, or "".
func (p *params) one(name string) string {
	p.known = append(p.known, name)
	if len(p.given[name]) > 1 {
		p.refuse(name, "must be given once")
	}
	return p.given.Get(name)
}

func (p *params) oneOf(name string, values ...string) string {
	value := p.one(name)
	if value != "" && !slices.Contains(values, value) {
		p.refuse(name, "must be one of "+strings.Join(values, ", "))
	}
	return value
}

func (p *params) tag() string {
	tag := p.one("tag")
	if tag != "" && !push.IsTag(tag) {
		p.refuse("tag", "must be "+push.TagRule)
	}
	return tag
}

// list returns the values of a parameter that can be repeated and can contain commas.
func (p *params) list(name string) (values []string) {
	p.known = append(p.known, name)
	for _, given := range p.given[name] {
		for value := range strings.SplitSeq(given, ",") {
			if value != "" {
				values = append(values, value)
			}
		}
	}
	return values
}

func (p *params) statuses(name string) (statuses []push.Status) {
	for _, value := range p.list(name) {
		if !slices.Contains(feedStatuses, push.Status(value)) {
			p.refuse(name, "must be one or more of "+joinStatuses(feedStatuses))
		}
		statuses = append(statuses, push.Status(value))
	}
	return statuses
}

// statsBy are the values of the parameter by.
var statsBy = []push.StatsBy{push.ByStatus, push.ByReason, push.ByPlatform, push.ByHour}

func (p *params) by() (by []push.StatsBy) {
	for _, value := range p.list("by") {
		if !slices.Contains(statsBy, push.StatsBy(value)) {
			p.refuse("by", "must be one or more of status, reason, platform, hour")
		}
		if !slices.Contains(by, push.StatsBy(value)) {
			by = append(by, push.StatsBy(value))
		}
	}
	return by
}

const timeRule = `must be an RFC 3339 time such as "2026-12-31T23:59:59Z", or a minus sign and a duration before now such as "-90m" or "-24h"`

func (p *params) time(name string, now time.Time) (at time.Time) {
	value := p.one(name)
	if value == "" {
		return at
	}
	if len(value) > 1 && value[0] == '-' {
		if ago, err := time.ParseDuration(value[1:]); err == nil && ago >= 0 && isAlphanumeric(value[1]) {
			return now.Add(-ago)
		}
	} else if at.UnmarshalText([]byte(value)) == nil {
		return at
	}
	p.refuse(name, timeRule)
	return at
}

func (p *params) timeRange(now time.Time) (since, until time.Time) {
	since, until = p.time("since", now), p.time("until", now)
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		p.refuse("until", "must be after since")
	}
	return since, until
}

// number returns a whole number in a range, or the default.
func (p *params) number(name string, lowest, highest, value int) int {
	text := p.one(name)
	if text == "" {
		return value
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < lowest || n > highest {
		p.refuse(name, fmt.Sprintf("must be a whole number from %d to %d", lowest, highest))
	}
	return n
}

func (p *params) limit() int {
	value := p.one("limit")
	if value == "" {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > push.MaxLimit {
		p.refuse("limit", fmt.Sprintf("must be a whole number from 1 to %d", push.MaxLimit))
	}
	return n
}

// finish returns the problem, which can be that of a parameter that is not known.
func (p *params) finish() *problem {
	for name := range p.given {
		if slices.Contains(p.known, name) {
			continue
		}
		if !isPlain(name, 40) {
			name = "(…)"
		}
		p.refuse(name, "unknown parameter; known parameters: "+strings.Join(p.known, ", "))
	}
	return p.problem
}
