// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/audience"
)

// offsetZones has a zone for each of the 38 standard UTC offsets in use.
var offsetZones = map[string]string{
	"-12:00": "Etc/GMT+12", "-11:00": "Pacific/Pago_Pago", "-10:00": "Pacific/Honolulu", "-09:30": "Pacific/Marquesas", "-09:00": "America/Anchorage",
	"-08:00": "America/Los_Angeles", "-07:00": "America/Denver", "-06:00": "America/Chicago", "-05:00": "America/New_York", "-04:00": "America/Halifax",
	"-03:30": "America/St_Johns", "-03:00": "America/Sao_Paulo", "-02:00": "America/Noronha", "-01:00": "Atlantic/Azores", "+00:00": "Europe/London",
	"+01:00": "Europe/Berlin", "+02:00": "Europe/Helsinki", "+03:00": "Asia/Riyadh", "+03:30": "Asia/Tehran", "+04:00": "Asia/Dubai",
	"+04:30": "Asia/Kabul", "+05:00": "Asia/Karachi", "+05:30": "Asia/Kolkata", "+05:45": "Asia/Kathmandu", "+06:00": "Asia/Dhaka",
	"+06:30": "Asia/Yangon", "+07:00": "Asia/Bangkok", "+08:00": "Asia/Shanghai", "+08:45": "Australia/Eucla", "+09:00": "Asia/Tokyo",
	"+09:30": "Australia/Darwin", "+10:00": "Australia/Brisbane", "+10:30": "Australia/Lord_Howe", "+11:00": "Pacific/Noumea", "+12:00": "Pacific/Auckland",
	"+12:45": "Pacific/Chatham", "+13:00": "Pacific/Tongatapu", "+14:00": "Pacific/Kiritimati",
}

// testZones are those zones, their offsets without changes, and zones with unusual changes.
func testZones(t *testing.T) (zones []*time.Location) {
	t.Helper()
	names := []string{"Africa/Casablanca", "Africa/Cairo", "America/Nuuk", "America/Havana", "Asia/Beirut", "Antarctica/Troll", "Pacific/Apia", "America/Santiago", "America/Asuncion"}
	for offset, name := range offsetZones {
		names = append(names, offset, name)
	}
	for _, name := range names {
		zone, err := audience.LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		zones = append(zones, zone)
	}
	return zones
}

func TestOffsetZonesHaveTheirOffsets(t *testing.T) {
	if len(offsetZones) != 38 {
		t.Fatalf("%d offsets, want 38", len(offsetZones))
	}
	for offset, name := range offsetZones {
		zone, err := audience.LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		standard := ""
		for _, month := range []time.Month{time.January, time.July} {
			if at := time.Date(2024, month, 1, 0, 0, 0, 0, zone); !at.IsDST() {
				standard = at.Format("-07:00")
			}
		}
		if standard != offset {
			t.Errorf("%s has the offset %s, want %s", name, standard, offset)
		}
	}
}

func plan(t testing.TB, s audience.Schedule, started time.Time) *audience.Plan {
	t.Helper()
	p, err := audience.NewPlan(&s, started)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// seasons are starts before changes of the clock in the northern and southern hemisphere, and in 2011
// before Samoa left out 30 December.
var seasons = []string{
	"2026-03-07T13:37:11Z", "2026-03-28T22:00:00Z", "2026-04-03T23:59:59Z", "2026-09-25T12:00:00Z", "2026-10-03T01:00:00Z", "2026-10-24T23:30:00Z",
	"2026-10-31T18:45:30Z", "2011-12-29T09:00:00Z", "2012-04-01T00:00:00Z",
}

// step is how often the tests read a clock. All UTC offsets and their changes are multiples of it.
const step = 5 * time.Minute

// wall returns the time that a clock in the zone shows, as if it were in UTC.
func wall(zone *time.Location, t time.Time) time.Time {
	_, offset := t.In(zone).Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// TestLocalTimeIsFirstOnTheClock compares due times with a clock that is read all the time. Where the
// clock skips the time, the device is due when it is put forward.
func TestLocalTimeIsFirstOnTheClock(t *testing.T) {
	for _, zone := range testZones(t) {
		for _, season := range seasons {
			start := at(t, season)
			for _, local := range []string{"09:00", "00:00", "01:30", "02:00", "02:30", "23:55"} {
				w, ok := plan(t, audience.Schedule{LocalTime: local}, start).Window(zone, start)
				if want := readClock(zone, start, local); !ok || !w.From.Equal(want) || !w.Until.IsZero() {
					t.Errorf("%s in %s after %s: due %s, want %s", local, zone, season, w.From.In(zone), want.In(zone))
				}
			}
		}
	}
}

// readClock returns when a clock that is read all the time shows the local time for the first time at
// or after the start, or has skipped it.
func readClock(zone *time.Location, start time.Time, local string) time.Time {
	want, _ := time.Parse("15:04", local)
	matches := func(shown time.Time) bool { return shown.Hour() == want.Hour() && shown.Minute() == want.Minute() }
	now := start.Truncate(step)
	if now.Before(start) {
		now = now.Add(step)
	}
	for before := wall(zone, now.Add(-step)); ; now = now.Add(step) {
		shown := wall(zone, now)
		if matches(shown) {
			return now
		}
		if skipped := shown.Sub(before) - step; now.After(start) && skipped < 24*time.Hour {
			for s := before.Add(step); s.Before(shown); s = s.Add(step) {
				if matches(s) {
					return now
				}
			}
		}
		before = shown
	}
}

func TestLocalTimeAtChangesOfTheClock(t *testing.T) {
	for _, test := range []struct{ zone, start, local, due string }{
		{"Europe/Berlin", "2026-03-28T23:00:00Z", "02:30", "2026-03-29T03:00:00+02:00"},       // skipped
		{"Europe/Berlin", "2026-10-24T22:00:00Z", "02:30", "2026-10-25T02:30:00+02:00"},       // the first of two
		{"Europe/Berlin", "2026-10-25T00:45:00Z", "02:30", "2026-10-25T02:30:00+01:00"},       // the first has passed
		{"America/New_York", "2026-03-08T06:59:59.5Z", "02:00", "2026-03-08T03:00:00-04:00"},  // skipped
		{"Australia/Lord_Howe", "2026-10-03T15:00:00Z", "02:15", "2026-10-04T02:30:00+11:00"}, // half an hour is skipped
		{"Pacific/Apia", "2011-12-29T19:00:00Z", "08:00", "2011-12-31T08:00:00+14:00"},        // a day is skipped
		{"Africa/Cairo", "2026-04-23T12:00:00Z", "00:30", "2026-04-24T01:00:00+03:00"},        // midnight is skipped
		{"Asia/Kathmandu", "2026-06-01T03:15:00Z", "09:00", "2026-06-01T09:00:00+05:45"},      // exactly now
		{"Asia/Kathmandu", "2026-06-01T03:15:00.001Z", "09:00", "2026-06-02T09:00:00+05:45"},
		{"Pacific/Kiritimati", "2026-12-23T10:00:00Z", "2026-12-24T09:00", "2026-12-24T09:00:00+14:00"},
		{"Etc/GMT+12", "2026-12-23T10:00:00Z", "2026-12-24T09:00", "2026-12-24T09:00:00-12:00"},
		{"Europe/Berlin", "2026-12-24T10:00:00Z", "2026-12-24T09:00", "2026-12-24T11:00:00+01:00"}, // it is past
		{"Europe/Berlin", "2026-01-01T00:00:00Z", "2026-03-29T02:30", "2026-03-29T03:00:00+02:00"}, // skipped
		{"Europe/Berlin", "2026-01-01T00:00:00Z", "2026-10-25T02:30", "2026-10-25T02:30:00+02:00"}, // the first of two
		{"Pacific/Apia", "2011-12-01T00:00:00Z", "2011-12-30T09:00", "2011-12-31T00:00:00+14:00"},  // a date that did not exist
	} {
		zone, err := audience.LoadZone(test.zone)
		if err != nil {
			t.Fatal(err)
		}
		start := at(t, test.start)
		w, _ := plan(t, audience.Schedule{LocalTime: test.local}, start).Window(zone, start)
		if want := at(t, test.due); !w.From.Equal(want) {
			t.Errorf("%s in %s after %s: due %s, want %s", test.local, test.zone, test.start, w.From.In(zone), test.due)
		}
	}
}

// TestQuietHoursHoldAtAllTimes walks through the windows of several days and compares them with a clock.
func TestQuietHoursHoldAtAllTimes(t *testing.T) {
	for _, q := range []audience.QuietHours{{From: "22:00", To: "07:00"}, {From: "02:15", To: "02:45"}, {From: "00:00", To: "02:30"}, {From: "12:00", To: "00:00"}} {
		from, _ := time.Parse("15:04", q.From)
		to, _ := time.Parse("15:04", q.To)
		for _, zone := range testZones(t) {
			for _, season := range seasons {
				start := at(t, season)
				p := plan(t, audience.Schedule{QuietHours: &q}, start)
				w, ok := p.Window(zone, start)
				for now := start.Truncate(step).Add(step); now.Before(start.Add(36 * time.Hour)); now = now.Add(step) {
					if !now.Before(w.Until) {
						w, ok = p.Window(zone, now)
					}
					shown := wall(zone, now)
					clock := time.Date(0, 1, 1, shown.Hour(), shown.Minute(), 0, 0, time.UTC)
					quiet := !clock.Before(from) && (clock.Before(to) || from.After(to)) || clock.Before(to) && from.After(to)
					if inWindow := !now.Before(w.From) && now.Before(w.Until); inWindow == quiet || !ok {
						t.Fatalf("%v in %s at %s: the window is [%s, %s), %v", q, zone, now.In(zone), w.From.In(zone), w.Until.In(zone), ok)
					}
				}
			}
		}
	}
}

// TestBroadcastInAllTimeZones sends to one device in each zone on simulated time.
func TestBroadcastInAllTimeZones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zones := testZones(t)
		start := time.Now().Add(time.Hour)
		p := plan(t, audience.Schedule{
			StartAt: audience.Time(start), LocalTime: "06:30", QuietHours: &audience.QuietHours{From: "22:00", To: "06:15"},
		}, time.Now())
		sent := map[string]bool{}
		for time.Since(start) < 25*time.Hour {
			for _, zone := range zones {
				w, ok := p.Window(zone, time.Now())
				if !ok || sent[zone.String()] || w.From.After(time.Now()) {
					continue
				}
				sent[zone.String()] = true
				if clock := time.Now().In(zone).Format("15:04"); clock != "06:30" {
					t.Errorf("sent in %s at %s", zone, clock)
				}
			}
			time.Sleep(time.Minute)
		}
		if len(sent) != len(zones) {
			t.Errorf("sent to %d of %d zones", len(sent), len(zones))
		}
	})
}

func TestWindowRespectsStartAndExpiry(t *testing.T) {
	started, startAt, expiry := at(t, "2026-06-01T10:00:00Z"), at(t, "2026-06-01T12:00:00Z"), at(t, "2026-06-01T23:00:00Z")
	s := audience.Schedule{StartAt: audience.Time(startAt), ExpiresAt: audience.Time(expiry)}
	p := plan(t, s, started)
	if !p.Start().Equal(startAt) || !p.Expiry().Equal(expiry) {
		t.Errorf("from %s to %s", p.Start(), p.Expiry())
	}
	for _, test := range []struct {
		name      string
		s         audience.Schedule
		now, from string
		ok        bool
	}{
		{"before the start", s, "2026-06-01T10:00:00Z", "2026-06-01T12:00:00Z", true},
		{"after the start", s, "2026-06-01T22:59:59Z", "2026-06-01T22:59:59Z", true},
		{"at the expiry", s, "2026-06-01T23:00:00Z", "2026-06-01T23:00:00Z", false},
		{"local time after the expiry", audience.Schedule{LocalTime: "09:00", ExpiresAt: audience.Time(expiry)}, "2026-06-01T10:00:00Z", "2026-06-02T09:00:00Z", false},
		{"quiet until the expiry", audience.Schedule{QuietHours: &audience.QuietHours{From: "20:00", To: "23:00"}, ExpiresAt: audience.Time(expiry)},
			"2026-06-01T21:00:00Z", "2026-06-01T23:00:00Z", false},
		{"started after start_at", audience.Schedule{StartAt: audience.Time(at(t, "2026-06-01T01:00:00Z")), LocalTime: "09:00"},
			"2026-06-01T10:00:00Z", "2026-06-02T09:00:00Z", true},
	} {
		w, ok := plan(t, test.s, started).Window(time.UTC, at(t, test.now))
		if !w.From.Equal(at(t, test.from)) || ok != test.ok {
			t.Errorf("%s: from %s, %v", test.name, w.From, ok)
		}
	}
	if w, _ := p.Window(time.UTC, started); !w.Until.Equal(expiry) {
		t.Errorf("until %s", w.Until)
	}
}

func TestDevicesWithoutZoneHaveTheDefault(t *testing.T) {
	now := at(t, "2026-06-01T00:00:00Z")
	for _, test := range []struct{ zone, recipient, want string }{
		{"", "", "UTC"}, {"Asia/Tokyo", "", "Asia/Tokyo"}, {"Asia/Tokyo", "-03:30", "-03:30"}, {"Asia/Tokyo", "invalid", "Asia/Tokyo"},
	} {
		p := plan(t, audience.Schedule{TimeZone: test.zone}, now)
		if got := p.Zone(&audience.Recipient{TimeZone: test.recipient}); got.String() != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestInvalidScheduleNamesField(t *testing.T) {
	for _, test := range []struct{ schedule, want string }{
		{`{"start_at":"tomorrow"}`, `start_at: must be an RFC 3339 time such as "2026-12-31T23:59:59Z", or a plus sign and a duration from now`},
		{`{"start_at":"+-1h"}`, `start_at: must be an RFC 3339 time`},
		{`{"start_at":"++1h"}`, `start_at: must be an RFC 3339 time`},
		{`{"start_at":"+"}`, `start_at: must be an RFC 3339 time`},
		{`{"expires_at":"+"}`, `expires_at: must be an RFC 3339 time`},
		{`{"start_at":"2026-01-02T00:00:00Z","expires_at":"2026-01-02T00:00:00Z"}`, "expires_at: must be after start_at"},
		{`{"local_time":"9:00"}`, `local_time: must be a time of day such as "09:00", or a date and time such as "2026-12-24T09:00", without a time zone`},
		{`{"local_time":"24:00"}`, "local_time: must be a time of day"},
		{`{"local_time":"2026-02-30T09:00"}`, "local_time: must be a time of day"},
		{`{"local_time":"2026-02-03T09:00:00Z"}`, "local_time: must be a time of day"},
		{`{"quiet_hours":{"from":"22:00"}}`, `quiet_hours.to: must be a time of day such as "22:00"`},
		{`{"quiet_hours":{"from":"10pm","to":"07:00"}}`, "quiet_hours.from: must be a time of day"},
		{`{"quiet_hours":{"from":"22:00","to":"22:00"}}`, "quiet_hours.to: must differ from quiet_hours.from"},
		{`{"quiet_hours":{"from":"22:00","to":"07:00"},"local_time":"23:00"}`, "local_time: must be outside the quiet hours"},
		{`{"quiet_hours":{"begin":"22:00"}}`, "quiet_hours.begin: unknown field; known fields: from, to"},
		{`{"time_zone":"CEST+2"}`, "time_zone: must be an IANA time zone"},
		{`{"time_zone":"Local"}`, "time_zone: must be an IANA time zone"},
		{`{"time_zone":"localtime"}`, "time_zone: must be an IANA time zone"},
		{`{"time_zone":"right/Europe/Berlin"}`, "time_zone: must be an IANA time zone"},
		{`{"time_zone":"../etc/passwd"}`, "time_zone: must be an IANA time zone"},
		{`{"time_zone":"+14:01"}`, "time_zone: must be an IANA time zone"},
		{`{"time_zone":"-12:30"}`, "time_zone: must be an IANA time zone"},
	} {
		var s audience.Schedule
		err := unmarshal([]byte(test.schedule), &s)
		if err == nil {
			_, err = audience.NewPlan(&s, time.Now())
		}
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s:\n got %v\nwant %s", test.schedule, err, test.want)
		}
	}
}

func TestTimeIsRelativeOnlyAsInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s audience.Schedule
		if err := unmarshal([]byte(`{"start_at":"+90m","expires_at":"2036-01-01T00:00:00+01:00"}`), &s); err != nil {
			t.Fatal(err)
		}
		start, _ := s.StartAt.MarshalText()
		expiry, _ := s.ExpiresAt.MarshalText()
		want := []string{time.Now().Add(90 * time.Minute).Format(time.RFC3339Nano), "2036-01-01T00:00:00+01:00"}
		if diff := cmp.Diff(want, []string{string(start), string(expiry)}); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoadZoneReturnsOneLocation(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "+01:00", "UTC", "Etc/GMT-14"} {
		first, err := audience.LoadZone(name)
		again, _ := audience.LoadZone(name)
		if err != nil || first != again || first.String() != name {
			t.Errorf("%s: %v, %v", name, first, err)
		}
	}
}

func BenchmarkWindow(b *testing.B) {
	start := time.Date(2026, time.November, 30, 0, 0, 0, 0, time.UTC)
	p := plan(b, audience.Schedule{LocalTime: "09:00", QuietHours: &audience.QuietHours{From: "22:00", To: "07:00"}}, start)
	zone := p.Zone(&audience.Recipient{TimeZone: "Europe/Berlin"})
	for b.Loop() {
		if _, ok := p.Window(zone, start); !ok {
			b.Fatal("no window")
		}
	}
}

func ExamplePlan_Window() {
	started := time.Date(2026, time.March, 28, 12, 0, 0, 0, time.UTC)
	plan, err := audience.NewPlan(&audience.Schedule{LocalTime: "09:00", QuietHours: &audience.QuietHours{From: "22:00", To: "07:00"}}, started)
	if err != nil {
		fmt.Println(err)
		return
	}
	zone := plan.Zone(&audience.Recipient{TimeZone: "Europe/Berlin"})
	w, _ := plan.Window(zone, started)
	fmt.Println("from", w.From.In(zone).Format(time.RFC3339), "until", w.Until.In(zone).Format(time.RFC3339))
	// Output: from 2026-03-29T09:00:00+02:00 until 2026-03-29T22:00:00+02:00
}
