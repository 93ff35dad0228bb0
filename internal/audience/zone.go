// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // for machines and images without a tz database

	"github.com/sluice-push/sluice/internal/strictjson"
)

// ZoneRule describes the name of a time zone.
const ZoneRule = `must be an IANA time zone such as "Europe/Berlin", or a UTC offset from "-12:00" to "+14:00"`

// zones caches locations by name. Only valid names get into it, so there are at most some thousands.
var zones sync.Map

// LoadZone returns the time zone with an IANA name, or with a UTC offset such as "+05:30". Each call
// with the same name returns the same location.
func LoadZone(name string) (*time.Location, error) {
	if zone, cached := zones.Load(name); cached {
		return zone.(*time.Location), nil
	}
	zone, valid := parseOffset(name)
	if !valid && isZoneName(name) {
		loaded, err := time.LoadLocation(name)
		zone, valid = loaded, err == nil
	}
	if !valid {
		return nil, &strictjson.Error{Reason: strictjson.InvalidField, Field: "time_zone", Detail: ZoneRule}
	}
	cached, _ := zones.LoadOrStore(name, zone)
	return cached.(*time.Location), nil
}

// isZoneName reports whether name may be an IANA name, which starts with a capital letter. "Local" would
// be the zone of the machine, and so would other files beside its tz database. A name with more slashes
// than needed would be another name of the same zone.
func isZoneName(name string) bool {
	return name != "" && len(name) <= 64 && 'A' <= name[0] && name[0] <= 'Z' && name != "Local" && !strings.Contains(name, ".") && !strings.Contains(name, "//")
}

// parseOffset parses a UTC offset such as "+05:30".
func parseOffset(name string) (*time.Location, bool) {
	if len(name) != len("+05:30") || name[0] != '+' && name[0] != '-' {
		return nil, false
	}
	minutes, valid := parseClock(name[1:])
	if name[0] == '-' {
		minutes = -minutes
	}
	if !valid || minutes < -12*60 || minutes > 14*60 {
		return nil, false
	}
	return time.FixedZone(name, 60*minutes), true
}

// parseClock parses a time of day such as "09:00" and returns the minutes since midnight.
func parseClock(text string) (minutes int, valid bool) {
	t, err := time.Parse("15:04", text)
	return 60*t.Hour() + t.Minute(), err == nil && len(text) == len("15:04")
}
