// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// queryModel is a history with the notifications of one app that a search must find. Other apps and
// earlier runs share the log.
type queryModel struct {
	testing.TB
	*History
	engine *jetstream.Engine
	log    *jetstream.Log
	dir    string // of the index
	app    string
	all    []*modelNotification
	spread bool // events have times in the last three hours
}

// modelNotification is a notification with its stored events.
type modelNotification struct {
	app    string
	id     uuid.UUID
	tags   []string
	task   record.Position // of its task, or zero
	keyed  bool
	events []modelEvent
}

type modelEvent struct {
	at     jetstream.Offset
	time   time.Time
	status push.Status
	tagged bool
	reason string
}

func newQueryModel(t testing.TB) *queryModel {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	m := &queryModel{TB: t, engine: e, dir: t.TempDir()}
	if m.log, err = OpenLog(t.Context(), e, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.log.Run(ctx) }()
	t.Cleanup(func() {
		err := m.Close()
		cancel()
		if err := errors.Join(err, testwait.For(t, ended, "the end of the log"), e.Close()); err != nil {
			t.Error(err)
		}
	})
	m.open()
	return m
}

func (m *queryModel) open() {
	m.Helper()
	var err error
	if m.History, err = Open(context.Background(), Config{Engine: m.engine, Log: m.log, Dir: m.dir}); err != nil {
		m.Fatal(err)
	}
}

// reopen opens the history again, after change.
func (m *queryModel) reopen(change func(dir string) error) {
	m.Helper()
	if err := errors.Join(m.Close(), change(m.dir)); err != nil {
		m.Fatal(err)
	}
	m.open()
}

// seal makes the open segment a file.
func (m *queryModel) seal() {
	m.Helper()
	x := m.entries
	s := x.open
	if s.last < s.first {
		return
	}
	x.mu.Lock()
	err := x.startSegment(s.last + 1)
	x.full = append(x.full, s)
	x.mu.Unlock()
	if err := errors.Join(err, x.seal(s)); err != nil {
		m.Fatal(err)
	}
}

// append stores the next events of some notifications in one message.
func (m *queryModel) append(t *rapid.T) {
	var records []jetstream.Record
	var ns []*modelNotification
	var events []modelEvent
	for range rapid.IntRange(1, 6).Draw(t, "events") {
		n, e := m.nextEvent(t, ns)
		if n == nil {
			continue
		}
		r := n.record(e)
		data, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		records, ns, events = append(records, jetstream.Record{Data: data}), append(ns, n), append(events, e)
	}
	offsets, err := m.log.Append(context.Background(), records...)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		n := ns[i]
		e.at = offsets[i]
		if len(n.events) == 0 && isWaiting(e.status) {
			n.task = record.Position(e.at)
		}
		n.events = append(n.events, e)
	}
}

// nextEvent returns the next event of a notification that is not in busy, which is a new one or one that
// has not ended. It returns nil if there is none.
func (m *queryModel) nextEvent(t *rapid.T, busy []*modelNotification) (*modelNotification, modelEvent) {
	e := modelEvent{time: time.Now().UTC().Truncate(time.Millisecond), tagged: true}
	if m.spread {
		e.time = e.time.Add(-time.Duration(rapid.IntRange(0, 180).Draw(t, "ago")) * time.Minute)
	}
	end := func(statuses ...push.Status) {
		if e.status = rapid.SampledFrom(statuses).Draw(t, "end"); e.status == push.StatusRefused {
			e.reason = "BadDeviceToken"
		}
	}
	if len(m.all) == 0 || rapid.Bool().Draw(t, "new") {
		n := &modelNotification{id: uuid.Must(uuid.NewV7()), app: m.app}
		if rapid.IntRange(0, 4).Draw(t, "other app") == 0 {
			n.app = "other"
		}
		n.tags = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2, rapid.ID).Draw(t, "tags")
		m.all = append(m.all, n)
		switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); kind {
		case 0:
			end(push.StatusAccepted, push.StatusRefused)
		case 1:
			n.keyed, e.status = true, push.StatusSending
		case 2:
			e.status = push.StatusQueued
		default:
			e.status = push.StatusScheduled
		}
		return n, e
	}
	n := rapid.SampledFrom(m.all).Draw(t, "notification")
	if slices.Contains(busy, n) || len(n.events) == 0 {
		return nil, e
	}
	switch last := n.events[len(n.events)-1].status; {
	case isEnd(last):
		return nil, e
	case last == push.StatusSending:
		end(push.StatusAccepted, push.StatusRefused)
	case rapid.Bool().Draw(t, "cancelled"):
		e.status = push.StatusCancelled
	default:
		e.status, e.tagged = push.StatusSending, false
	}
	return n, e
}

// record returns the record of the next event.
func (n *modelNotification) record(e modelEvent) *record.Record {
	platform := push.FCM
	if n.id[15]%2 == 0 {
		platform = push.APNs
	}
	r := &record.Record{Header: record.Header{ID: n.id, App: n.app, At: e.time, Status: e.status, Platform: platform, Of: n.task}}
	if e.tagged {
		r.Tags = n.tags
	}
	if n.keyed {
		r.KeyHash, r.BodyHash = n.id[:], []byte("body")
	}
	switch {
	case isWaiting(e.status):
		r.Kind, r.Notification = record.Task, &push.Notification{Platform: platform}
	case e.status == push.StatusCancelled:
		r.Kind, r.Receipt, r.Platform = record.Cancel, &push.Receipt{State: e.status}, ""
	case e.status == push.StatusSending && n.keyed:
		r.Kind, r.Attempt = record.Key, 1
	case e.status == push.StatusSending:
		r.Kind, r.Attempt = record.Sending, 1
	default:
		o := push.Outcome{Verdict: push.Accepted}
		if e.status == push.StatusRefused {
			o = push.Outcome{Verdict: push.Refused, Reason: e.reason}
		}
		r.Kind, r.Receipt = record.End, &push.Receipt{Outcome: o, Attempts: []push.Attempt{{Outcome: o}}}
	}
	return r
}

// want returns what a query without a limit must find.
func (m *queryModel) want(q push.Query) (found []push.Summary) {
	first := map[string]jetstream.Offset{}
	for _, n := range m.all {
		events := slices.DeleteFunc(slices.Clone(n.events), func(e modelEvent) bool { return e.at.Seq < m.firstSeq.Load() })
		place := slices.IndexFunc(events, func(e modelEvent) bool { return q.Tag == "" || e.tagged && slices.Contains(n.tags, q.Tag) })
		if n.app != m.app || place < 0 {
			continue
		}
		last := events[len(events)-1]
		s := push.Summary{ID: n.id.String(), Status: last.status, Reason: last.reason, CreatedAt: events[0].time, UpdatedAt: last.time}
		for _, e := range events {
			if e.status != push.StatusCancelled {
				s.Platform = n.record(e).Platform
			}
			if e.tagged && len(n.tags) > 0 {
				s.Tags = n.tags
			}
			if e.status == push.StatusSending || isEnd(e.status) && e.status != push.StatusCancelled {
				s.AttemptCount = 1
			}
		}
		if len(q.Statuses) > 0 && !slices.Contains(q.Statuses, s.Status) || q.Platform != "" && s.Platform != q.Platform ||
			!q.Since.IsZero() && s.CreatedAt.Before(q.Since) || !q.Until.IsZero() && !s.CreatedAt.Before(q.Until) {
			continue
		}
		first[s.ID] = events[place].at
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b push.Summary) int {
		x, y := first[b.ID], first[a.ID]
		return cmp.Or(cmp.Compare(x.Seq, y.Seq), cmp.Compare(x.Index, y.Index))
	})
	return found
}

// check reads all pages of a random query, and compares them with the model.
func (m *queryModel) check(t *rapid.T) {
	q := push.Query{Limit: rapid.SampledFrom([]int{0, 1, 2, 5}).Draw(t, "limit"), Tag: rapid.SampledFrom([]string{"", "a", "b", "none"}).Draw(t, "tag")}
	if rapid.Bool().Draw(t, "by status") {
		q.Statuses = rapid.SliceOfN(rapid.SampledFrom([]push.Status{push.StatusAccepted, push.StatusQueued, push.StatusSending, push.StatusCancelled}), 1, 2).Draw(t, "statuses")
	}
	q.Platform = rapid.SampledFrom([]push.Platform{"", "", push.APNs, push.FCM}).Draw(t, "platform")
	randomTime := func(name string) (at time.Time) {
		if rapid.Bool().Draw(t, name) {
			if n := rapid.SampledFrom(m.all).Draw(t, name+" of"); len(n.events) > 0 {
				at = n.events[0].time
			}
		}
		return at
	}
	q.Since, q.Until = randomTime("since"), randomTime("until")
	want := m.want(q)
	known := map[string]bool{}
	for _, n := range m.all {
		known[n.id.String()] = true
	}
	writing := rapid.Bool().Draw(t, "writing")
	var found []push.Summary
	for pages := 0; ; pages++ {
		page, err := m.Search(context.Background(), m.app, q)
		if err != nil || pages > 10_000 || len(page.Notifications) > cmp.Or(q.Limit, push.DefaultLimit) {
			t.Fatalf("%d pages, %d notifications: %v", pages, len(page.Notifications), err)
		}
		found = append(found, page.Notifications...)
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			break
		}
		if writing {
			m.append(t)
		}
	}
	if writing { // notifications may have changed after they were found, and before they were reached
		ids := func(list []push.Summary) (ids []string) {
			for _, s := range list {
				ids = append(ids, s.ID)
			}
			return ids
		}
		if !known[cmp.Or(append(ids(found), "")...)] && len(found) > 0 {
			t.Fatalf("%s is new", found[0].ID)
		}
		if len(q.Statuses) > 0 {
			return
		}
		if diff := gocmp.Diff(ids(want), ids(found)); diff != "" {
			t.Fatalf("%+v %s", q, diff)
		}
		return
	}
	if diff := gocmp.Diff(want, found); diff != "" {
		t.Fatalf("%+v %s", q, diff)
	}
}

// damage truncates a segment of the index while it is in use.
func (m *queryModel) damage(t *rapid.T) {
	names, err := filepath.Glob(filepath.Join(m.dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		return
	}
	name := rapid.SampledFrom(names).Draw(t, "segment")
	info, err := os.Stat(name)
	if err == nil {
		err = os.Truncate(name, info.Size()/3)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSearchFollowsModel compares searches with a model over random histories.
func TestSearchFollowsModel(t *testing.T) {
	m, runs := newQueryModel(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m.app, m.all = fmt.Sprint("app", runs), nil
		steps := rapid.IntRange(1, 25).Draw(t, "steps")
		for range steps {
			switch step := rapid.IntRange(0, 40).Draw(t, "step"); {
			case step < 24:
				m.append(t)
			case step < 36:
				if len(m.all) > 0 {
					m.check(t)
				}
			case step == 36:
				m.seal()
			case step == 37:
				m.reopen(func(dir string) error { // perhaps with the files of an earlier version
					name := filepath.Join(dir, fmt.Sprintf("%020d%s", m.entries.open.first, tailSuffix))
					if rapid.Bool().Draw(t, "earlier") {
						return os.Rename(name, strings.TrimSuffix(name, tailSuffix)+oldTailSuffix)
					}
					return nil
				})
			case step == 38:
				m.reopen(func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) })
			case step == 39:
				m.damage(t)
			default:
				m.retain(t)
			}
		}
	})
}

// retain deletes old messages.
func (m *queryModel) retain(t *rapid.T) {
	if len(m.all) == 0 || len(m.all[0].events) == 0 {
		return
	}
	from, last := m.all[0].events[0].at.Seq, m.log.LastSeq()
	if _, err := m.deleteBefore(context.Background(), from+uint64(rapid.IntRange(0, int(last-from)).Draw(t, "deleted"))); err != nil {
		t.Fatal(err)
	}
}
