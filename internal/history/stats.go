// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// maxStatsTime is how long the notifications with a tag are counted.
const maxStatsTime = 5 * time.Second

// Stats counts notifications of an app that have ended. The counts are exact for the time in the result.
// Without a tag they come from the index, whatever their number. With a tag, each end is read. The error
// is one of the log.
func (h *History) Stats(ctx context.Context, app string, want push.StatsQuery) (push.Stats, error) {
	if err := h.waitCaughtUp(ctx); err != nil {
		return push.Stats{}, err
	}
	if err := h.searches.Acquire(ctx, 1); err != nil {
		return push.Stats{}, err
	}
	defer h.searches.Release(1)
	s := &stats{History: h, app: app, StatsQuery: want, groups: map[push.Count]*counter{}}
	err := s.setRange(ctx)
	switch {
	case err != nil:
	case want.Tag != "":
		err = s.countTagged(ctx)
	default:
		err = s.countAll(ctx)
	}
	if err != nil {
		return push.Stats{}, err
	}
	return s.result(), nil
}

// stats is one call of Stats.
type stats struct {
	*History
	app string
	push.StatsQuery
	groups map[push.Count]*counter // by the properties of By
}

// setRange sets Since and Until to whole hours, without those that have deleted events.
func (s *stats) setRange(ctx context.Context) error {
	info, err := s.cfg.Log.Info(ctx)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	now := time.Now().UTC()
	s.Since, s.Until = s.Since.UTC().Truncate(time.Hour), ceilHour(s.Until.UTC())
	if s.Until.IsZero() || s.Until.After(now) {
		s.Until = now
	}
	oldest := info.State.FirstTime.UTC().Truncate(time.Hour)
	switch {
	case info.State.Msgs == 0:
		oldest = now.Truncate(time.Hour)
	case info.State.FirstSeq > 1: // events of this hour are deleted
		oldest = ceilHour(info.State.FirstTime.UTC())
	}
	s.cover(oldest)
	return nil
}

func ceilHour(t time.Time) time.Time {
	if hour := t.Truncate(time.Hour); hour.Before(t) {
		return hour.Add(time.Hour)
	}
	return t
}

// cover restricts the result to the time since.
func (s *stats) cover(since time.Time) {
	if s.Since.Before(since) {
		s.Since = since
	}
	if s.Until.Before(s.Since) {
		s.Until = s.Since
	}
}

// countAll adds the counts of all segments.
func (s *stats) countAll(ctx context.Context) error {
	if counted := s.entries.countedSince(s.Since); counted.After(s.Since) {
		s.cover(ceilHour(counted))
	}
	_, err := s.findEntries(ctx, func() ([]position, error) {
		clear(s.groups)
		return nil, s.entries.count(ctx, s.app, s.Since, s.add)
	})
	return err
}

// add adds the counts of a row, if it is in the time.
func (s *stats) add(key countKey, row *counter) {
	hour := time.Unix(key.hour*3600, 0).UTC()
	if hour.Before(s.Since) || !hour.Before(s.Until) {
		return
	}
	s.addTo(hour, key.status, key.platform, key.reason).merge(row)
}

// addTo returns the counter for these properties.
func (s *stats) addTo(hour time.Time, status push.Status, platform push.Platform, reason string) *counter {
	var group push.Count
	by := s.By
	if len(by) == 0 {
		by = []push.StatsBy{push.ByStatus, push.ByReason, push.ByPlatform}
	}
	for _, property := range by {
		switch property {
		case push.ByStatus:
			group.Status = status
		case push.ByReason:
			group.Reason = reason
		case push.ByPlatform:
			group.Platform = platform
		case push.ByHour:
			group.Hour = hour
		}
	}
	c := s.groups[group]
	if c == nil {
		c = new(counter)
		s.groups[group] = c
	}
	return c
}

// countTagged counts the ends with the tag, the last ones first, for at most maxStatsTime.
func (s *stats) countTagged(ctx context.Context) error {
	q := &query{History: s.History, app: s.app, firstSeq: max(1, s.firstSeq.Load())}
	q.Query = push.Query{Tag: s.Tag, Since: s.Since, Until: s.Until}
	if err := q.setRange(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(maxStatsTime)
	for p, err := range q.taggedPositions(ctx) {
		if err != nil {
			return err
		}
		if p&ofTagOfEnd != ofTagOfEnd {
			continue
		}
		e, err := q.taggedEnd(ctx, p.offset())
		if err != nil {
			return err
		}
		if e == nil || e.at.Before(s.Since) || !e.at.Before(s.Until) {
			continue
		}
		var one counts
		one.add(0, e)
		for key, row := range one.rows {
			s.add(key, row)
		}
		if time.Now().After(deadline) {
			s.cover(e.at)
			break
		}
	}
	return ctx.Err()
}

// taggedEnd returns the end at an offset, or nil if it is deleted, damaged or has another tag.
func (q *query) taggedEnd(ctx context.Context, at jetstream.Offset) (*end, error) {
	h, data, err := q.taggedRecord(ctx, at)
	if h == nil || err != nil {
		return nil, err
	}
	e, ok := endOf(h, data, &q.parser)
	if !ok {
		return nil, nil
	}
	return &e, nil
}

// result returns the counts in the order of their properties.
func (s *stats) result() push.Stats {
	out, all := push.Stats{Since: s.Since, Until: s.Until, Counts: []push.Count{}}, counter{}
	for group, c := range s.groups {
		group.Count, group.Latency = c.count, c.percentiles()
		out.Counts = append(out.Counts, group)
		all.merge(c)
	}
	slices.SortFunc(out.Counts, func(a, b push.Count) int {
		return cmp.Or(a.Hour.Compare(b.Hour), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Reason, b.Reason))
	})
	out.Total, out.Latency = all.count, all.percentiles()
	return out
}
