// SPDX-License-Identifier: Apache-2.0

package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// notificationsData is the data of the page that finds notifications.
type notificationsData struct {
	Apps    []string // that the viewer may read
	Query   searchQuery
	History bool // the gateway has a history
	Error   string
	Found   *notificationView // by its ID
	List    *listView         // by the other criteria
	Stats   *push.Stats       // of the tag and time, on the first page
}

// searchQuery is the form of the page.
type searchQuery struct{ App, ID, Tag, Status, Since, Cursor string }

// listView is a page of notifications, the newest first.
type listView struct {
	Notifications []push.Summary
	Next          template.URL // query of the URL of the next page
	First         bool         // the page is the first one
}

// Statuses are the values of the form.
func (notificationsData) Statuses() []push.Status {
	return []push.Status{push.StatusAccepted, push.StatusUnregistered, push.StatusRefused, push.StatusThrottled, push.StatusUnauthorized, push.StatusUnavailable, push.StatusUnknown,
		push.StatusExpired, push.StatusQueued, push.StatusScheduled, push.StatusSending, push.StatusCancelled}
}

// TagQuery returns the query of the URL that selects a tag.
func (d notificationsData) TagQuery(tag string) template.URL {
	return template.URL(url.Values{"app": {d.Query.App}, "tag": {tag}}.Encode())
}

// period is a value of the form for the time.
type period struct{ Value, Name string }

// Periods are the values of the form.
func (notificationsData) Periods() []period {
	return []period{{"", "any time"}, {"-15m", "last 15 minutes"}, {"-1h", "last hour"}, {"-24h", "last 24 hours"}, {"-168h", "last 7 days"}}
}

// notificationView is one notification with its timeline.
type notificationView struct {
	ID, App  string
	Platform push.Platform
	Lane     push.Lane
	Status   push.Status
	Class    string
	Receipt  push.Receipt
	JSON     string // of the receipt
	Steps    []step
	Took     float64 // ms from the first event to the end; 0 while it has not ended
	Attempts int
}

// step is an event or an attempt in the timeline of a notification.
type step struct {
	At     time.Time
	After  float64 // ms since the first step
	Title  string
	Detail string
	Class  string // of the status
	// Attempt is set for an attempt.
	Attempt *push.Attempt
	Number  int
	TookMS  float64
	rank    int // of steps at the same time
}

// pageSize is the number of notifications on a page.
const pageSize = 50

// showNotifications finds notifications by ID, or by app, tag, status and time. The form uses GET, so
// that the page has a URL: none of these is secret.
func (c *Console) showNotifications(w http.ResponseWriter, r *http.Request, v *viewer) {
	get := func(name string) string { return strings.TrimSpace(r.URL.Query().Get(name)) }
	data := notificationsData{
		Apps: v.Apps(identity.Read), History: c.cfg.History != nil,
		Query: searchQuery{App: get("app"), ID: get("id"), Tag: get("tag"), Status: get("status"), Since: get("since"), Cursor: get("cursor")},
	}
	if data.Query.App == "" && len(data.Apps) > 0 {
		data.Query.App = data.Apps[0]
	}
	switch {
	case !data.History:
	case data.Query.ID != "":
		data.Found, data.Error = c.find(r, v, get("app"), data.Query.ID)
	case len(data.Apps) > 0:
		if data.List, data.Error = c.list(r, v, data.Query, pageSize); data.List != nil && data.List.First {
			data.Stats = c.stats(r, v, data.Query)
		}
	}
	if isPart(r) {
		c.renderPart(w, "notifications-result", data)
		return
	}
	c.page(w, r, v, "notifications", "Notifications", data)
}

// list returns a page of the notifications that the query selects, or a text that says why there is
// none.
func (c *Console) list(r *http.Request, v *viewer, q searchQuery, limit int) (*listView, string) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, value := range map[string]string{"tag": q.Tag, "status": q.Status, "since": q.Since, "cursor": q.Cursor} {
		if value != "" {
			query.Set(name, value)
		}
	}
	response := c.call(r.Context(), v, http.MethodGet, "/v1/apps/"+url.PathEscape(q.App)+"/notifications?"+query.Encode(), nil)
	var page push.Page
	if response.Status != http.StatusOK || json.Unmarshal(response.body.Bytes(), &page) != nil {
		p := response.problem()
		return nil, strings.TrimSpace(p.Title + ". " + p.Detail)
	}
	list := &listView{Notifications: page.Notifications, First: q.Cursor == ""}
	if page.NextCursor != "" {
		next := r.URL.Query()
		next.Set("app", q.App)
		next.Set("cursor", page.NextCursor)
		list.Next = template.URL(next.Encode())
	}
	return list, ""
}

// stats returns how many notifications with the tag and time of the query have ended, or nil.
func (c *Console) stats(r *http.Request, v *viewer, q searchQuery) *push.Stats {
	query := url.Values{"by": {string(push.ByStatus)}}
	for name, value := range map[string]string{"tag": q.Tag, "since": q.Since} {
		if value != "" {
			query.Set(name, value)
		}
	}
	response := c.call(r.Context(), v, http.MethodGet, "/v1/apps/"+url.PathEscape(q.App)+"/stats?"+query.Encode(), nil)
	stats := new(push.Stats)
	if response.Status != http.StatusOK || json.Unmarshal(response.body.Bytes(), stats) != nil || stats.Total == 0 {
		return nil
	}
	return stats
}

// find returns a notification of an app that the viewer may read, or a text that says why there is
// none.
func (c *Console) find(r *http.Request, v *viewer, app, id string) (*notificationView, string) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, "An ID is a UUID, such as 01a20286-0ae1-7e05-8dcc-78654e4789e5. It is in the receipt and in the header X-Request-Id of a call."
	}
	receipt, events, err := c.cfg.History.Find(r.Context(), app, parsed.String())
	switch {
	case errors.Is(err, push.ErrNotFound) || err == nil && (len(events) == 0 || !v.may(identity.Read, events[0].App)):
		return nil, "No notification has this ID, its history is no longer stored, or your key may not read its app."
	case err != nil:
		return nil, "The history does not respond. Try again."
	}
	return newNotificationView(receipt, events), ""
}

func newNotificationView(receipt push.Receipt, events []push.Event) *notificationView {
	n := &notificationView{ID: receipt.ID, App: events[0].App, Status: receipt.Status(), Class: statusClass(receipt.Status()), Receipt: receipt, Attempts: len(receipt.Attempts)}
	if text, err := receipt.MarshalJSON(); err == nil {
		n.JSON = indentJSON(text)
	}
	for _, e := range events {
		n.Platform, n.Lane = cmp.Or(e.Platform, n.Platform), cmp.Or(e.Lane, n.Lane)
		s := step{At: e.At.Truncate(time.Millisecond), Title: string(e.Status), Class: statusClass(e.Status)}
		switch {
		case e.Status == push.StatusSending && e.Attempt > 0:
			s.Detail = "attempt " + formatCount(e.Attempt) + " recorded before it was sent"
		case e.Status == push.StatusScheduled && !e.SendAt.IsZero():
			s.Detail = "due at " + e.SendAt.UTC().Format("2006-01-02 15:04:05 UTC")
		case e.Receipt != nil:
			s.rank = 2
			s.Detail = strings.TrimSpace(e.Receipt.Reason + " " + e.Receipt.Detail)
		}
		n.Steps = append(n.Steps, s)
	}
	for i := range receipt.Attempts {
		a := &receipt.Attempts[i]
		n.Steps = append(n.Steps, step{
			At: a.Started.Truncate(time.Millisecond), rank: 1, Title: "attempt " + formatCount(i+1), Attempt: a, Number: i + 1, Class: statusClass(a.Outcome.Status()), TookMS: float64(a.Took) / float64(time.Millisecond),
		})
	}
	slices.SortStableFunc(n.Steps, func(a, b step) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.rank, b.rank)) })
	start := n.Steps[0].At
	for i := range n.Steps {
		n.Steps[i].After = float64(n.Steps[i].At.Sub(start)) / float64(time.Millisecond)
	}
	if receipt.IsFinal() {
		n.Took = n.Steps[len(n.Steps)-1].After
	}
	return n
}

// statusClass returns the class of the style sheet for a status: good, warn, bad, unsure or wait.
func statusClass(s push.Status) string {
	switch s {
	case push.StatusAccepted:
		return "good"
	case push.StatusThrottled, push.StatusUnavailable, push.StatusExpired:
		return "warn"
	case push.StatusUnknown:
		return "unsure"
	case push.StatusQueued, push.StatusScheduled, push.StatusSending, push.StatusCancelled:
		return "wait"
	default:
		return "bad"
	}
}
