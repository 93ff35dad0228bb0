// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/push"
)

// zonesByOffset are zones with each of the 38 UTC offsets that are in use. Where there are such zones, their
// clocks change in summer.
var zonesByOffset = strings.Fields(`
	-12:00 Etc/GMT+12         -11:00 Pacific/Pago_Pago   -10:00 Pacific/Honolulu   -09:30 Pacific/Marquesas
	-09:00 America/Anchorage  -08:00 America/Los_Angeles -07:00 America/Denver     -06:00 America/Chicago
	-05:00 America/New_York   -04:00 America/Halifax     -03:30 America/St_Johns   -03:00 America/Sao_Paulo
	-02:00 America/Noronha    -01:00 Atlantic/Azores     +00:00 Europe/London      +01:00 Europe/Berlin
	+02:00 Europe/Helsinki    +03:00 Asia/Riyadh         +03:30 Asia/Tehran        +04:00 Asia/Dubai
	+04:30 Asia/Kabul         +05:00 Asia/Karachi        +05:30 Asia/Kolkata       +05:45 Asia/Kathmandu
	+06:00 Asia/Dhaka         +06:30 Asia/Yangon         +07:00 Asia/Bangkok       +08:00 Asia/Shanghai
	+08:45 Australia/Eucla    +09:00 Asia/Tokyo          +09:30 Australia/Darwin   +10:00 Australia/Brisbane
	+10:30 Australia/Lord_Howe +11:00 Pacific/Noumea     +12:00 Pacific/Auckland   +12:45 Pacific/Chatham
	+13:00 Pacific/Tongatapu  +14:00 Pacific/Kiritimati`)

// schedule is a schedule whose times are read from a clock, without the functions of package audience.
type schedule struct {
	start            string // RFC 3339
	local            string // "" for none
	quietFrom, quiet string // "" for none
	pause, resume    string // RFC 3339; "" for none
}

func parseTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// clockStep is how often the clock is read. All offsets, their changes and the times of the tests are
// multiples of it.
const clockStep = 5 * time.Minute

// due returns when a device in a zone must get the message.
func (s *schedule) due(t testing.TB, name string) time.Time {
	t.Helper()
	zone, err := audience.LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	wall := func(at time.Time) time.Time { // as if it were in UTC
		_, offset := at.In(zone).Zone()
		return at.Add(time.Duration(offset) * time.Second).UTC()
	}
	isDue := s.local == ""
	now := parseTime(t, s.start)
	for before := wall(now); ; now = now.Add(clockStep) {
		for shown := before; !isDue && !shown.After(wall(now)); shown = shown.Add(clockStep) { // with what it has skipped
			isDue = shown.Format("15:04") == s.local && (shown.After(before) || now.Equal(parseTime(t, s.start)))
		}
		before = wall(now)
		clock := before.Format("15:04")
		isQuiet := s.quietFrom <= clock && clock < s.quiet || s.quietFrom > s.quiet && (s.quietFrom <= clock || clock < s.quiet)
		isPaused := s.pause != "" && !now.Before(parseTime(t, s.pause)) && now.Before(parseTime(t, s.resume))
		if isDue && !isQuiet && !isPaused {
			return now
		}
	}
}

// definition returns the definition of a broadcast with the schedule.
func (s *schedule) definition() string {
	text := fmt.Sprintf(`{"schedule": {"start_at": %q`, s.start)
	if s.local != "" {
		text += fmt.Sprintf(`, "local_time": %q`, s.local)
	}
	if s.quiet != "" {
		text += fmt.Sprintf(`, "quiet_hours": {"from": %q, "to": %q}`, s.quietFrom, s.quiet)
	}
	return strings.Replace(simple, "{", text+"}, ", 1)
}

// arrivalTimes are when devices get the message.
type arrivalTimes struct {
	mu sync.Mutex
	at map[string][]time.Time // by token
}

func (a *arrivalTimes) answer(n *push.Notification) push.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[n.Token] = append(a.at[n.Token], time.Now().UTC())
	return push.Outcome{Verdict: push.Accepted}
}

// TestDeliveryAtLocalTimes sends to devices in all zones on simulated time, around changes of their clocks.
// Between the times at which something happens, no gateway runs.
func TestDeliveryAtLocalTimes(t *testing.T) {
	all := zonesByOffset
	if raceEnabled {
		all = all[len(all)-8:]
	}
	for _, test := range []struct {
		name string
		schedule
		zones []string
	}{
		{"put forward", schedule{start: "2026-03-28T12:00:00Z", local: "01:30"}, all},
		{"put back", schedule{start: "2026-10-24T12:00:00Z", local: "01:30", quietFrom: "02:00", quiet: "10:00",
			pause: "2026-10-24T19:55:00Z", resume: "2026-10-25T01:00:00Z"}, all},
		{"by half an hour", schedule{start: "2026-04-04T14:00:00Z", local: "01:45"}, []string{"Australia/Lord_Howe", "Australia/Sydney"}},
		{"at midnight", schedule{start: "2026-04-23T20:00:00Z", local: "00:30"}, []string{"Africa/Cairo", "Europe/Athens"}},
		{"in the quiet hours", schedule{start: "2026-03-28T22:00:00Z", quietFrom: "22:00", quiet: "02:30"},
			[]string{"Europe/Berlin", "Europe/London", "Atlantic/Azores", "Africa/Lagos", "-03:30"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			jetstreamtest.Simulate(t, func(t *testing.T) {
				testSchedule(t, &test.schedule, test.zones)
			})
		})
	}
}

// testSchedule sends a message to two devices in each zone, and compares the times with a clock.
func testSchedule(t *testing.T, s *schedule, zones []string) {
	due, times, text := map[string]time.Time{}, map[time.Time]bool{}, ""
	for i, zone := range zones {
		at := s.due(t, zone)
		times[at] = true
		for _, device := range []string{"a", "b"} {
			token := fmt.Sprint(device, i)
			due[token] = at
			text += fmt.Sprintf("{\"token\":%q,\"time_zone\":%q}\n", token, zone)
		}
	}
	if s.pause != "" {
		times[parseTime(t, s.pause)] = true
		times[parseTime(t, s.resume)] = true
	}
	time.Sleep(time.Until(parseTime(t, s.start).Add(-time.Minute)))
	cfg := nodeConfig{dir: t.TempDir(), sender: newFakeSender()}
	got := arrivalTimes{at: map[string][]time.Time{}}
	cfg.sender.(*fakeSender).answer = got.answer
	n := newTestNode(t, cfg)
	id := n.create(s.definition(), text)
	n.start(id)
	const around = 2 * time.Second
	for _, at := range slices.SortedFunc(maps.Keys(times), time.Time.Compare) {
		if before := at.Add(-around); time.Until(before) > around {
			n.stop()
			time.Sleep(time.Until(before))
			n = newTestNode(t, cfg)
		}
		time.Sleep(time.Until(at))
		switch at.Format(time.RFC3339) {
		case s.pause:
			n.do(id, broadcast.Pause)
		case s.resume:
			n.do(id, broadcast.Resume)
		}
		time.Sleep(around)
	}
	if v := n.waitState(id, broadcast.Completed); v.Counts.Accepted != uint64(len(due)) {
		t.Errorf("%+v", v.Counts)
	}
	for token, want := range due {
		if at := got.at[token]; len(at) != 1 || at[0].Before(want) || at[0].Sub(want) > 100*time.Millisecond {
			t.Errorf("%s got the message at %v, want %s", token, at, want.UTC())
		}
	}
	n.stop()
}

// TestQuietHoursHoldWhatIsEnqueued enqueues notifications that are not sent before the quiet hours begin: because
// the provider is not available, or because the broadcast is paused.
func TestQuietHoursHoldWhatIsEnqueued(t *testing.T) {
	for _, pause := range []bool{false, true} {
		t.Run(fmt.Sprint("paused=", pause), func(t *testing.T) {
			jetstreamtest.Simulate(t, func(t *testing.T) { testQuietHours(t, pause) })
		})
	}
}

func testQuietHours(t *testing.T, pause bool) {
	quiet, morning := parseTime(t, "2026-06-01T22:00:00Z"), parseTime(t, "2026-06-02T07:00:00Z")
	const eastern = "2026-06-02T01:00:00Z" // it is 07:00 at UTC+6
	time.Sleep(time.Until(quiet.Add(-5 * time.Second)))
	cfg := nodeConfig{dir: t.TempDir(), sender: newFakeSender()}
	got := arrivalTimes{at: map[string][]time.Time{}}
	cfg.sender.(*fakeSender).answer = func(n *push.Notification) push.Outcome {
		o := got.answer(n)
		if time.Now().Before(quiet.Add(time.Minute)) {
			o = push.Outcome{Verdict: push.Unavailable, Scope: push.ScopeDevice} // so that the queue tries the others
		}
		return o
	}
	n := newTestNode(t, cfg)
	// At this rate, 500 notifications may be in the queue.
	id := n.create(strings.Replace(simple, "{", `{"schedule": {"quiet_hours": {"from": "22:00", "to": "07:00"}}, "rate": {"per_minute": 15000}, `, 1),
		lines(600)+strings.ReplaceAll(lines(50), `"}`, `a","time_zone":"+06:00"}`))
	n.start(id)
	time.Sleep(time.Until(quiet.Add(-2 * time.Second)))
	if pause {
		n.do(id, broadcast.Pause)
	}
	time.Sleep(time.Until(quiet.Add(time.Second)))
	if pause {
		n.do(id, broadcast.Resume)
	}
	for _, at := range []time.Time{parseTime(t, eastern), morning} {
		time.Sleep(time.Second)
		n.stop()
		time.Sleep(time.Until(at.Add(-time.Second)))
		n = newTestNode(t, cfg)
		time.Sleep(3 * time.Second)
	}
	v := n.waitState(id, broadcast.Completed)
	if v.Counts.Accepted != 650 {
		t.Errorf("%+v", v.Counts)
	}
	early := 0
	for token, times := range got.at {
		first := morning
		if strings.HasSuffix(token, "a") {
			first = parseTime(t, eastern)
		}
		for _, at := range times {
			if at.Before(quiet) {
				early++
			} else if at.After(quiet.Add(50*time.Millisecond)) && at.Before(first) {
				t.Errorf("%s: an attempt at %s", token, at)
			}
		}
		if last := times[len(times)-1]; last.Sub(first) > 5*time.Second {
			t.Errorf("%s got the message at %s", token, last)
		}
	}
	if early < 250 || len(got.at) != 650 {
		t.Errorf("%d attempts before the quiet hours, %d devices", early, len(got.at))
	}
	n.stop()
}
