// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
)

// wantStats returns the counts, without latencies, and the total.
func (m *queryModel) wantStats(q push.StatsQuery) (want []push.Count, total uint64) {
	groups := map[push.Count]uint64{}
	for _, n := range m.all {
		if len(n.events) == 0 || n.app != m.app || q.Tag != "" && !slices.Contains(n.tags, q.Tag) {
			continue
		}
		last := n.events[len(n.events)-1]
		hour := last.time.Truncate(time.Hour)
		if !isEnd(last.status) || hour.Before(q.Since) {
			continue
		}
		var c push.Count
		for _, by := range q.By {
			switch by {
			case push.ByHour:
				c.Hour = hour
			case push.ByStatus:
				c.Status = last.status
			case push.ByReason:
				c.Reason = last.reason
			case push.ByPlatform:
				c.Platform = n.record(last).Platform
			}
		}
		groups[c]++
		total++
	}
	for c, count := range groups {
		c.Count = count
		want = append(want, c)
	}
	slices.SortFunc(want, func(a, b push.Count) int {
		return cmp.Or(a.Hour.Compare(b.Hour), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Reason, b.Reason))
	})
	return want, total
}

func (m *queryModel) checkStats(t *rapid.T) {
	all := []push.StatsBy{push.ByStatus, push.ByReason, push.ByPlatform, push.ByHour}
	q := push.StatsQuery{Tag: rapid.SampledFrom([]string{"", "a", "none"}).Draw(t, "tag"), By: rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, 4, rapid.ID).Draw(t, "by")}
	if rapid.Bool().Draw(t, "since") {
		q.Since = time.Now().Add(-time.Duration(rapid.IntRange(0, 180).Draw(t, "ago")) * time.Minute)
	}
	q.Since, q.Until = q.Since.Truncate(time.Hour), time.Now().Add(time.Minute)
	s := &stats{History: m.History, app: m.app, StatsQuery: q, groups: map[push.Count]*counter{}} // without setRange: the log is not as old
	count := s.countAll
	if q.Tag != "" {
		count = s.countTagged
	}
	if err := count(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := s.result()
	want, total := m.wantStats(q)
	for i := range got.Counts {
		if got.Counts[i].Latency == nil {
			t.Fatalf("%+v", got.Counts[i])
		}
		got.Counts[i].Latency = nil
	}
	if diff := gocmp.Diff(want, got.Counts, gocmp.Transformer("nonNil", func(c []push.Count) []push.Count { return append([]push.Count{}, c...) })); diff != "" || got.Total != total {
		t.Fatalf("%+v: total %d, want %d %s", q, got.Total, total, diff)
	}
}

// removeCounts makes a segment one of an earlier version.
func (m *queryModel) removeCounts(t *rapid.T) {
	x := m.entries
	if len(x.sealed) == 0 {
		return
	}
	s := rapid.SampledFrom(x.sealed).Draw(t, "segment")
	if s.counts == 0 {
		return
	}
	header, err := s.header()
	if err != nil {
		return // it is damaged
	}
	data, err := os.ReadFile(s.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	header = header[:s.counts]
	earlier := binary.LittleEndian.AppendUint32(slices.Clone(data[:4]), crc32.ChecksumIEEE(header))
	earlier = append(binary.LittleEndian.AppendUint32(earlier, uint32(len(header))), header...)
	if err := os.WriteFile(s.file.Name(), append(earlier, data[s.start:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	m.reopen(func(string) error { return nil })
	for s := m.entries.uncounted(time.Time{}); s != nil; s = m.entries.uncounted(time.Time{}) {
		if err := m.entries.addCounts(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStatsFollowModel compares statistics with a model over random histories. Nothing is deleted.
func TestStatsFollowModel(t *testing.T) {
	m, runs := newQueryModel(t), 0
	m.spread = true
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m.app, m.all = fmt.Sprint("app", runs), nil
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch step := rapid.IntRange(0, 40).Draw(t, "step"); {
			case step < 26:
				m.append(t)
			case step < 36:
				m.checkStats(t)
			case step == 36:
				m.seal()
			case step == 37:
				m.reopen(func(string) error { return nil })
			case step == 38:
				m.reopen(func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) })
			case step == 39:
				m.damage(t)
			default:
				m.removeCounts(t)
			}
		}
	})
}

// TestStatsCoverWholeHours deletes the oldest events: the counts then start with the next hour.
func TestStatsCoverWholeHours(t *testing.T) {
	m := newQueryModel(t)
	ends := func(count int) {
		for range count {
			id := uuid.Must(uuid.NewV7()).String()
			receipt := push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Accepted}}
			if _, err := m.Append(t.Context(), push.Event{ID: id, App: "shop", At: time.Now(), Status: push.StatusAccepted, Platform: push.APNs, Receipt: &receipt}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := m.Stats(t.Context(), "shop", push.StatsQuery{}); err != nil || got.Total != 0 || got.Until.Before(got.Since) || got.Latency != nil {
		t.Errorf("%+v %v", got, err)
	}
	started := time.Now().UTC()
	ends(3)
	for _, q := range []push.StatsQuery{{}, {Since: started.Add(-100 * time.Hour)}, {Since: started, Until: started.Add(time.Minute)}} {
		got, err := m.Stats(t.Context(), "shop", q)
		if err != nil || got.Total != 3 || got.Since.Before(started.Truncate(time.Hour)) || got.Since.After(time.Now()) || got.Until.Before(started) || len(got.Counts) != 1 || got.Counts[0].Count != 3 {
			t.Errorf("%+v %v", got, err)
		}
	}
	if got, err := m.Stats(t.Context(), "shop", push.StatsQuery{Until: started.Add(-2 * time.Hour)}); err != nil || got.Total != 0 {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := m.deleteBefore(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	got, err := m.Stats(t.Context(), "shop", push.StatsQuery{})
	if err != nil || got.Total != 0 || !got.Since.After(started) || got.Since.Truncate(time.Hour) != got.Since {
		t.Errorf("%+v %v", got, err)
	}
}

func TestLatencyIsAccurate(t *testing.T) {
	for _, millis := range []uint64{0, 1, 7, 15, 16, 17, 100, 999, 12_345, 86_400_000, 7 * 86_400_000} {
		if got := bucketMillis(latencyBucket(millis)); math.Abs(got-float64(millis)) > 0.07*float64(millis) {
			t.Errorf("%d ms is counted as %v ms", millis, got)
		}
	}
	for bucket := range 300 {
		if got := latencyBucket(uint64(bucketMillis(bucket))); got != bucket {
			t.Errorf("bucket %d has its middle in %d", bucket, got)
		}
	}
	var c counter
	for millis := range int64(1000) {
		c.addLatency(millis, 1)
	}
	got := c.percentiles()
	for want, is := range map[float64]float64{500: got.P50, 950: got.P95, 990: got.P99} {
		if math.Abs(is-want) > 0.07*want {
			t.Errorf("%+v", got)
		}
	}
}
