// SPDX-License-Identifier: Apache-2.0

package audience

import "time"

const secondsPerDay = 24 * 60 * 60

// clockAt returns the seconds since midnight that a clock in the zone shows at t.
func clockAt(zone *time.Location, t time.Time) int {
	_, offset := t.In(zone).Zone()
	return int(floorMod(t.Unix()+int64(offset), secondsPerDay))
}

func floorMod(a, b int64) int64 { return (a%b + b) % b }

// period is the time from a change of a zone's UTC offset to the next one.
type period struct {
	offset int       // seconds east of UTC
	end    time.Time // zero if there is no next one
}

func periodAt(zone *time.Location, t time.Time) period {
	local := t.In(zone)
	_, offset := local.Zone()
	_, end := local.ZoneBounds()
	return period{offset, end}
}

// includes reports whether t is before the end.
func (p period) includes(t time.Time) bool { return p.end.IsZero() || t.Before(p.end) }

// wait returns the time from the second of t until a clock shows the given seconds since midnight, if
// the period lasts so long.
func (p period) wait(t time.Time, clock int) time.Duration {
	return time.Duration(floorMod(int64(clock)-t.Unix()-int64(p.offset), secondsPerDay)) * time.Second
}

// nextClock returns the first time at or after t at which a clock in the zone shows the given seconds
// since midnight. If the clock is put forward past it, that is when it is put forward.
func nextClock(zone *time.Location, t time.Time, clock int) time.Time {
	for {
		p := periodAt(zone, t)
		found := t.Truncate(time.Second).Add(p.wait(t, clock))
		if found.Before(t) {
			found = found.Add(24 * time.Hour)
		}
		if p.includes(found) {
			return found
		}
		before := p.end.Unix() + int64(p.offset) // what the clock would show
		skipped := int64(periodAt(zone, p.end).offset - p.offset)
		// Samoa once skipped a whole day: that day has no such time.
		if skipped < secondsPerDay && floorMod(int64(clock)-before, secondsPerDay) < skipped {
			return p.end
		}
		t = p.end
	}
}

// firstAt returns the first time at which a clock with a calendar in the zone shows local, given as if
// it were in UTC, or a later time.
func firstAt(zone *time.Location, local time.Time) time.Time {
	const maxOffset = 16 * time.Hour // in any year, including local mean times
	for t := local.Add(-maxOffset); ; {
		p := periodAt(zone, t)
		found := time.Unix(local.Unix()-int64(p.offset), 0)
		if found.Before(t) {
			found = t // the clock was put forward past it
		}
		if p.includes(found) {
			return found
		}
		t = p.end
	}
}

// quietHours are a daily interval of local time, in seconds since midnight. from may be after to.
type quietHours struct{ from, to int }

func (q *quietHours) include(clock int) bool {
	if q.from < q.to {
		return q.from <= clock && clock < q.to
	}
	return q.from <= clock || clock < q.to
}

// edge returns the first time after t at which the quiet hours begin, or end if t is in them.
func (q *quietHours) edge(zone *time.Location, t time.Time) time.Time {
	quiet := q.include(clockAt(zone, t))
	clock := q.from
	if quiet {
		clock = q.to
	}
	for {
		p := periodAt(zone, t)
		found := t.Truncate(time.Second).Add(p.wait(t, clock))
		switch {
		case p.includes(found):
			return found
		case q.include(clockAt(zone, p.end)) != quiet:
			return p.end
		}
		t = p.end
	}
}
