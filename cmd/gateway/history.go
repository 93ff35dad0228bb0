// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-push/sluice/push"
)

// found are the flags of the commands that read the history of an app.
type found struct {
	reader
	Key   string `env:"SLUICE_KEY,GATEWAY_KEY" required:"" help:"API key with the scope read. Prefer the environment variable: other users of the machine can see flags."`
	App   string `required:"" help:"App of the notifications."`
	Tag   string `help:"Only notifications with this tag."`
	Since string `placeholder:"TIME" help:"Only from this time on: a duration before now such as 24h, or a time such as 2026-11-22T00:00:00Z."`
	Until string `placeholder:"TIME" help:"Only before this time."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

// query returns the parameters that both commands have.
func (f found) query() url.Values {
	query := url.Values{}
	set(query, map[string]string{"tag": f.Tag, "since": ago(f.Since), "until": ago(f.Until)})
	return query
}

func (f found) path(rest string) string { return "v1/apps/" + url.PathEscape(f.App) + "/" + rest }

// ago returns a time as the API expects it: with a minus sign before a duration.
func ago(text string) string {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return "-" + text
	}
	return text
}

type searchCmd struct {
	found
	ID       string `arg:"" optional:"" help:"ID of a notification, to print it as JSON with its attempts."`
	Status   string `help:"Only notifications with these statuses, separated by commas, such as refused,expired."`
	Platform string `help:"Only notifications of this platform: apns, fcm or webpush."`
	Limit    int    `default:"100" help:"How many notifications to print, the newest ones."`
}

// Help returns the description and examples.
func (searchCmd) Help() string {
	return `Examples:

    gateway search --app shop --tag campaign:42 --status refused,unregistered
    gateway search --app shop 019350f1-2b3c-7d4e-8f90-a1b2c3d4e5f6

Prints the notifications of an app, the newest first: when they were accepted, ID, status, platform, reason and tags. With --json, one JSON object per line. The gateway must have a queue.`
}

// maxSearchPage is the largest page that the API returns.
const maxSearchPage = 1000

// Run prints the notifications.
func (s searchCmd) Run(p process) error {
	encoder := json.NewEncoder(p.stdout)
	if s.ID != "" {
		var receipt json.RawMessage
		if err := s.read(p, "search", s.Key, s.path("notifications/"+url.PathEscape(s.ID)), url.Values{}, &receipt); err != nil {
			return err
		}
		encoder.SetIndent("", "  ")
		return encoder.Encode(receipt)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	query := s.query()
	set(query, map[string]string{"status": s.Status, "platform": s.Platform})
	for left := s.Limit; left > 0; {
		query.Set("limit", strconv.Itoa(min(left, maxSearchPage)))
		var page push.Page
		if err := s.read(p, "search", s.Key, s.path("notifications"), query, &page); err != nil {
			return err
		}
		for _, n := range page.Notifications {
			if !s.JSON {
				printf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", n.CreatedAt.UTC().Format(time.RFC3339), n.ID, n.Status, n.Platform, cmp.Or(n.Reason, "-"), strings.Join(n.Tags, " "))
			} else if err := encoder.Encode(n); err != nil {
				return err
			}
		}
		if left -= len(page.Notifications); page.NextCursor == "" {
			break
		}
		query.Set("cursor", page.NextCursor)
	}
	return table.Flush()
}

type statsCmd struct {
	found
	By []string `default:"status,reason,platform" help:"Count by these properties: status, reason, platform, hour."`
}

// Help returns the description and examples.
func (statsCmd) Help() string {
	return `Examples:

    gateway stats --app shop --since 24h
    gateway stats --app shop --tag campaign:42 --by status

Counts the notifications of an app that have ended, with the median and the 99th percentile of the time from acceptance to the end. Times are rounded to whole hours. The gateway must have a queue.`
}

// Run prints the counts.
func (s statsCmd) Run(p process) error {
	query := s.query()
	query.Set("by", strings.Join(s.By, ","))
	if s.JSON {
		var text json.RawMessage
		if err := s.read(p, "stats", s.Key, s.path("stats"), query, &text); err != nil {
			return err
		}
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(text)
	}
	var stats push.Stats
	if err := s.read(p, "stats", s.Key, s.path("stats"), query, &stats); err != nil {
		return err
	}
	printf(p.stdout, "%d from %s to %s\n", stats.Total, stats.Since.UTC().Format(time.RFC3339), stats.Until.UTC().Format(time.RFC3339))
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, c := range stats.Counts {
		var properties []string
		for _, by := range s.By {
			properties = append(properties, cmp.Or(map[string]string{"status": string(c.Status), "reason": c.Reason, "platform": string(c.Platform), "hour": formatHour(c.Hour)}[by], "-"))
		}
		latency := ""
		if c.Latency != nil {
			latency = "p50 " + strconv.FormatFloat(c.Latency.P50, 'f', -1, 64) + " ms, p99 " + strconv.FormatFloat(c.Latency.P99, 'f', -1, 64) + " ms"
		}
		printf(table, "%d\t%s\t%s\n", c.Count, strings.Join(properties, "\t"), latency)
	}
	return table.Flush()
}

// formatHour returns an hour as text, or "" for the zero time.
func formatHour(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
