// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/wire"
)

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		later := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
		for _, c := range []struct {
			value, date string
			want        time.Duration
		}{
			{"", "", 0},
			{"0", "", 0},
			{"15", "", 15 * time.Second},
			{"4294967295", "", 24 * time.Hour},
			{"99999999999999999999", "", 0},
			{"-5", "", 0},
			{"1.5", "", 0},
			{"soon", "", 0},
			{later(30 * time.Second), "", 30 * time.Second},
			{later(-30 * time.Second), "", 0},
			{later(48 * time.Hour), "", 24 * time.Hour},
			{later(time.Hour + 10*time.Second), later(time.Hour), 10 * time.Second}, // the peer's clock is an hour ahead
			{later(10 * time.Second), "yesterday", 10 * time.Second},
		} {
			r := wire.Response{Status: 503, Header: []wire.Field{{Name: "retry-after", Value: c.value}, {Name: "date", Value: c.date}}}
			if got := r.RetryAfter(); got != c.want {
				t.Errorf("Retry-After %q, Date %q: %v, want %v", c.value, c.date, got, c.want)
			}
		}
	})
}
