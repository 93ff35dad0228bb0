// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/push"
)

var readHeader = "Authorization: Bearer " + readKey

func TestSearchPassesParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		day := time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)
		for query, want := range map[string]push.Query{
			"":                                {},
			"?tag=campaign:spring/27&limit=7": {Tag: "campaign:spring/27", Limit: 7},
			"?status=accepted,refused&status=queued&platform=fcm": {Statuses: []push.Status{"accepted", "refused", "queued"}, Platform: push.FCM},
			"?since=1999-12-31T00:00:00Z&until=-90m":              {Since: day, Until: time.Now().Add(-90 * time.Minute)},
			"?since=-24h":                                         {Since: time.Now().Add(-24 * time.Hour)},
		} {
			w := ts.request("GET", singlePath+query, "", readHeader)
			var page push.Page
			if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK || len(page.Notifications) != 1 || page.NextCursor != "2.0" {
				t.Errorf("%s: %d %s %v", query, w.Code, w.Body, err)
			}
			if diff := cmp.Diff(want, store.query); diff != "" {
				t.Errorf("%s: %s", query, diff)
			}
		}
		if w := ts.request("GET", singlePath, ""); w.Code != http.StatusForbidden {
			t.Errorf("without the scope read: %d", w.Code)
		}
		if w := ts.request("POST", singlePath, validBody); w.Code != http.StatusOK {
			t.Errorf("POST: %d", w.Code)
		}
	})
}

// listRefusals are invalid parameters of a search, and the field and detail of their problems.
var listRefusals = []struct{ query, field, detail string }{
	{"?tag=" + canary + "%20", "tag", "must be 1 to 64 letters"},
	{"?tag=a&tag=b", "tag", "must be given once"},
	{"?status=accepted," + canary, "status", "queued, scheduled, sending, accepted"},
	{"?platform=" + canary, "platform", "must be one of apns, fcm, webpush"},
	{"?since=" + canary, "since", "RFC 3339"},
	{"?since=24h", "since", `"-24h"`},
	{"?since=--24h", "since", `"-24h"`},
	{"?until=-", "until", "RFC 3339"},
	{"?since=-1h&until=-2h", "until", "must be after since"},
	{"?limit=0", "limit", "from 1 to 1000"},
	{"?limit=1001", "limit", "from 1 to 1000"},
	{"?limit=" + canary, "limit", "from 1 to 1000"},
	{"?cursor=" + canary, "cursor", "next_cursor"},
	{"?tags=a", "tags", "known parameters: tag, status, platform, since, until, limit, cursor"},
	{"?" + canary + "=1", "(…)", "unknown parameter"},
}

func TestInvalidSearchNamesParameter(t *testing.T) {
	ts, store := newTestAPIWithStorage(t)
	for _, c := range listRefusals {
		w := ts.request("GET", singlePath+c.query, "", readHeader)
		p := ts.wantProblem(w, http.StatusBadRequest, "invalid-parameter")
		if p.Field != c.field || !strings.Contains(p.Detail, c.detail) || strings.Contains(w.Body.String(), canary) {
			t.Errorf("%s: %s", c.query, w.Body)
		}
	}
	ts.wantProblem(ts.request("GET", singlePath+"?cursor=1.0", "", readHeader), http.StatusGone, "cursor-expired")
	store.err = errors.New("down")
	ts.wantProblem(ts.request("GET", singlePath, "", readHeader), http.StatusServiceUnavailable, "queue-unavailable")
	direct := newTestAPI(t)
	direct.wantProblem(direct.request("GET", singlePath, "", readHeader), http.StatusNotImplemented, "needs-queue")
}

func TestStatsPassesParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts, store := newTestAPIWithStorage(t)
		for query, want := range map[string]push.StatsQuery{
			"": {},
			"?tag=a&since=-24h&by=hour,status&by=status": {Tag: "a", Since: time.Now().Add(-24 * time.Hour), By: []push.StatsBy{push.ByHour, push.ByStatus}},
		} {
			w := ts.request("GET", statsPath+query, "", readHeader)
			var stats push.Stats
			if err := json.Unmarshal(w.Body.Bytes(), &stats); err != nil || w.Code != http.StatusOK || stats.Total != 3 || stats.Counts[0].Latency.P99 != 3.5 {
				t.Errorf("%s: %d %s %v", query, w.Code, w.Body, err)
			}
			if diff := cmp.Diff(want, store.statsQuery); diff != "" {
				t.Errorf("%s: %s", query, diff)
			}
		}
		if w := ts.request("GET", statsPath, ""); w.Code != http.StatusForbidden {
			t.Errorf("without the scope read: %d", w.Code)
		}
		for query, field := range map[string]string{"?by=" + canary: "by", "?tag=%20": "tag", "?since=x": "since", "?status=accepted": "status"} {
			if p := ts.wantProblem(ts.request("GET", statsPath+query, "", readHeader), http.StatusBadRequest, "invalid-parameter"); p.Field != field {
				t.Errorf("%s: %+v", query, p)
			}
		}
		store.err = errors.New("down")
		ts.wantProblem(ts.request("GET", statsPath, "", readHeader), http.StatusServiceUnavailable, "queue-unavailable")
	})
}

const statsPath = "/v1/apps/shop/stats"
