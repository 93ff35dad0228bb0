// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"errors"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/strictjson"
)

// Schedule says when the devices of a broadcast may be sent to. Its JSON form is part of a broadcast.
type Schedule struct {
	// StartAt is when sending starts; zero means when the broadcast is started.
	StartAt Time `json:"start_at,omitzero"`
	// LocalTime is a time of day such as "09:00": each device is due when a clock in its time zone
	// shows it for the first time after the start. With a date, "2026-12-24T09:00", the device is due at
	// that time on its own calendar, or at the start if that is past.
	LocalTime string `json:"local_time,omitempty"`
	// QuietHours are hours of the day, in the time zone of the device, at which nothing is sent to it.
	QuietHours *QuietHours `json:"quiet_hours,omitempty"`
	// TimeZone is that of devices without one; empty means UTC.
	TimeZone string `json:"time_zone,omitempty"`
	// ExpiresAt is when sending ends; zero means never.
	ExpiresAt Time `json:"expires_at,omitzero"`
}

// QuietHours are a daily interval of local time. It can include midnight: From "22:00", To "07:00".
type QuietHours struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Time is a time.Time that in JSON is an RFC 3339 time or, as input only, a plus sign and a duration
// from now.
type Time time.Time

// IsZero reports whether the time is not set.
func (t Time) IsZero() bool { return time.Time(t).IsZero() }

// MarshalText returns the time in RFC 3339 format.
func (t Time) MarshalText() ([]byte, error) { return time.Time(t).MarshalText() }

// UnmarshalText parses an RFC 3339 time, or a plus sign and a duration such as "+10m".
func (t *Time) UnmarshalText(text []byte) error {
	if after, relative := strings.CutPrefix(string(text), "+"); relative {
		if wait, err := time.ParseDuration(after); err == nil && wait >= 0 && after[0] != '+' {
			*t = Time(time.Now().Add(wait))
			return nil
		}
	} else if (*time.Time)(t).UnmarshalText(text) == nil {
		return nil
	}
	return errors.New(`must be an RFC 3339 time such as "2026-12-31T23:59:59Z", or a plus sign and a duration from now such as "+10m" or "+1h30m"`)
}

// Plan is a checked schedule of a broadcast that has started. It is immutable.
type Plan struct {
	start  time.Time
	expiry time.Time // zero: never
	zone   *time.Location
	quiet  *quietHours // nil: none
	clock  int         // seconds since midnight of the local time, -1 if there is none
	date   time.Time   // local date and time as if in UTC; zero without a date
}

// Window is an interval of time in which a device may be sent to.
type Window struct {
	From  time.Time
	Until time.Time // exclusive; zero means without end
}

// NewPlan checks a schedule and returns its plan for a broadcast that was started at the given time.
// The plan depends on nothing else. The error is a *strictjson.Error.
func NewPlan(s *Schedule, started time.Time) (*Plan, error) {
	p := &Plan{start: started, expiry: time.Time(s.ExpiresAt), zone: time.UTC, clock: -1}
	if start := time.Time(s.StartAt); start.After(started) {
		p.start = start
	}
	if !s.ExpiresAt.IsZero() && !s.StartAt.IsZero() && !p.expiry.After(time.Time(s.StartAt)) {
		return nil, invalid("expires_at", "must be after start_at")
	}
	if s.TimeZone != "" {
		zone, err := LoadZone(s.TimeZone)
		if err != nil {
			return nil, err
		}
		p.zone = zone
	}
	if err := p.setLocalTime(s.LocalTime); err != nil {
		return nil, err
	}
	return p, p.setQuietHours(s.QuietHours)
}

func invalid(field, detail string) error {
	return &strictjson.Error{Reason: strictjson.InvalidField, Field: field, Detail: detail}
}

func (p *Plan) setLocalTime(text string) error {
	if text == "" {
		return nil
	}
	if minutes, valid := parseClock(text); valid {
		p.clock = 60 * minutes
		return nil
	}
	date, err := time.Parse("2006-01-02T15:04", text)
	if err != nil {
		return invalid("local_time", `must be a time of day such as "09:00", or a date and time such as "2026-12-24T09:00", without a time zone`)
	}
	p.date, p.clock = date, 60*(60*date.Hour()+date.Minute())
	return nil
}

func (p *Plan) setQuietHours(q *QuietHours) error {
	if q == nil {
		return nil
	}
	const rule = `must be a time of day such as "22:00"`
	from, valid := parseClock(q.From)
	if !valid {
		return invalid("quiet_hours.from", rule)
	}
	to, valid := parseClock(q.To)
	switch {
	case !valid:
		return invalid("quiet_hours.to", rule)
	case from == to:
		return invalid("quiet_hours.to", "must differ from quiet_hours.from")
	}
	p.quiet = &quietHours{60 * from, 60 * to}
	if p.clock >= 0 && p.quiet.include(p.clock) {
		return invalid("local_time", "must be outside the quiet hours")
	}
	return nil
}

// Start returns when sending starts.
func (p *Plan) Start() time.Time { return p.start }

// Expiry returns when sending ends, or zero if it does not.
func (p *Plan) Expiry() time.Time { return p.expiry }

// Zone returns the time zone of a recipient, or the default of the schedule.
func (p *Plan) Zone(r *Recipient) *time.Location {
	if r.TimeZone != "" {
		if zone, err := LoadZone(r.TimeZone); err == nil {
			return zone
		}
	}
	return p.zone
}

// Window returns the next interval in which a device in the zone may be sent to, at or after now. ok
// is false if there is none because the broadcast expires before.
func (p *Plan) Window(zone *time.Location, now time.Time) (w Window, ok bool) {
	w = Window{From: p.due(zone), Until: p.expiry}
	if now.After(w.From) {
		w.From = now
	}
	if p.quiet != nil {
		if p.quiet.include(clockAt(zone, w.From)) {
			w.From = p.quiet.edge(zone, w.From)
		}
		if quiet := p.quiet.edge(zone, w.From); w.Until.IsZero() || quiet.Before(w.Until) {
			w.Until = quiet
		}
	}
	return w, p.expiry.IsZero() || w.From.Before(p.expiry)
}

// due returns when a device in the zone is due, apart from quiet hours.
func (p *Plan) due(zone *time.Location) time.Time {
	switch {
	case p.clock < 0:
		return p.start
	case p.date.IsZero():
		return nextClock(zone, p.start, p.clock)
	}
	if due := firstAt(zone, p.date); due.After(p.start) {
		return due
	}
	return p.start
}
