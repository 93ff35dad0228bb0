// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

// TestHistoryCommands sends notifications, and reads them, their counts and the audit log.
func TestHistoryCommands(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: 1})
	dir := t.TempDir()
	more := fmt.Sprintf("queue: {dir: %q}\naudit_log: {enabled: true, sends: true}\nauth: {keys: [{name: ops, hash: \"sha256:%x\", scopes: [admin]}]}\n", dir, sha256.Sum256([]byte("admin")))
	p := startGateway(t, nil, "serve", "-c", statusConfig(t, m, "127.0.0.1:0", more))
	env := []string{"GATEWAY_URL=http://" + p.servingAt()}
	_, admin, _ := strings.Cut(p.stderr.String(), `"admin":"`)
	admin, _, _ = strings.Cut(admin, `"`)
	withKey := func(key string, args ...string) (code int, stdout, stderr string) {
		return runGateway(t, append(env, "SLUICE_KEY="+key), args...)
	}
	for _, tag := range []string{"a", "b"} {
		if code, stdout, stderr := withKey("test", "send", "--app", "shop", "--platform", "fcm", "--topic", "news", "--title", "Hi", "--tag", tag); code != 0 {
			t.Fatal(stdout, stderr)
		}
	}
	response, err := http.PostForm("http://"+admin+"/console/sign-in", url.Values{"key": {"wrong"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()

	var code int
	var stdout, stderr string
	p.eventually("the notification in the index", func() bool {
		code, stdout, stderr = withKey("test", "search", "--app", "shop", "--tag", "a", "--since", "1h")
		return code != 0 || stdout != ""
	})
	fields := strings.Fields(stdout)
	if code != 0 || len(fields) != 6 || strings.Join(fields[2:], " ") != "accepted fcm - a" {
		t.Fatalf("%d %q %s", code, stdout, stderr)
	}
	if code, stdout, stderr := withKey("test", "search", "--app", "shop", fields[1]); code != 0 || !strings.Contains(stdout, `"id": "`+fields[1]+`"`) || !strings.Contains(stdout, `"attempts"`) {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
	if code, stdout, _ := withKey("test", "search", "--app", "shop", "--limit", "1", "--json"); code != 0 || strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, `"tags":["b"]`) {
		t.Errorf("%d %s", code, stdout)
	}
	if code, stdout, _ := withKey("test", "search", "--app", "shop", "--status", "refused"); code != 0 || stdout != "" {
		t.Errorf("%d %s", code, stdout)
	}
	if code, stdout, stderr := withKey("test", "stats", "--app", "shop", "--by", "status,platform"); code != 0 || !strings.HasPrefix(stdout, "2 from ") || !strings.Contains(stdout, "\n2  accepted  fcm  p50 ") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
	if code, stdout, _ := withKey("test", "stats", "--app", "shop", "--tag", "a", "--json"); code != 0 || !strings.Contains(stdout, `"total": 1`) {
		t.Errorf("%d %s", code, stdout)
	}

	p.eventually("the sign-in in the audit log", func() bool {
		code, stdout, stderr = withKey("admin", "auditlog", "--limit", "0")
		return code != 0 || strings.Contains(stdout, "console.sign_in")
	})
	var actions []string
	for line := range strings.Lines(stdout) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] != "admin.request" {
			actions = append(actions, fields[1])
		}
	}
	if got := strings.Join(actions, " "); code != 0 || !strings.HasPrefix(got, "gateway.start send send console.sign_in") || !strings.Contains(stdout, "console.sign_in  -") || !strings.Contains(stdout, "unknown_key") {
		t.Errorf("%d %s\n%s%s", code, got, stdout, stderr)
	}
	code, stdout, _ = withKey("admin", "auditlog", "--action", "send", "--caller", "test", "--since", "1h", "--limit", "1", "--json")
	var record struct{ Action, Caller, App string }
	if err := json.Unmarshal([]byte(stdout), &record); code != 0 || err != nil || record.Action != "send" || record.Caller != "test" || record.App != "shop" {
		t.Errorf("%d %s %v", code, stdout, err)
	}
	for want, args := range map[string][]string{
		"auditlog: HTTP status 403":            {"auditlog"},
		"search: HTTP status 403":              {"search", "--app", "bank"},
		"stats: HTTP status 400":               {"stats", "--app", "shop", "--by", "color"},
		"search: HTTP status 404":              {"search", "--app", "shop", "01a20286-0ae1-7e05-8dcc-78654e4789e5"},
		"auditlog: no response from http://[:": {"auditlog", "--url", "http://[::1]:1"},
	} {
		if code, _, stderr := withKey("test", args...); code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%v: %d %s", args, code, stderr)
		}
	}
}
