// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/html"

	"github.com/sluice-push/sluice/internal/console"
)

// pages are the pages that need a session.
var pages = []string{"/console/", "/console/notifications", "/console/notifications?id=" + knownID, "/console/unregistered", "/console/send", "/console/live/events"}

func TestPagesRequireSession(t *testing.T) {
	ts := newTestConsole(t)
	for _, path := range pages {
		if w := ts.do(http.MethodGet, path, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/console/sign-in" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	if w := ts.do(http.MethodGet, "/console/notifications", nil, "HX-Request: true"); w.Code != http.StatusUnauthorized || w.Header().Get("HX-Redirect") != "/console/sign-in" {
		t.Errorf("htmx: %d %v", w.Code, w.Header())
	}
	if w := ts.do(http.MethodGet, "/console/live/events", nil, "Accept: text/event-stream"); w.Code != http.StatusUnauthorized {
		t.Errorf("stream: %d", w.Code)
	}
	for _, path := range []string{"/console/send", "/console/send/preview"} {
		if w := ts.do(http.MethodPost, path, nil); w.Code != http.StatusSeeOther || len(ts.calls) > 0 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	ts.cookie = &http.Cookie{Name: "sluice_console", Value: "GUESSEDGUESSEDGUESSEDGUESS"}
	if w := ts.do(http.MethodGet, "/console/", nil); w.Code != http.StatusSeeOther {
		t.Errorf("guessed session: %d", w.Code)
	}
}

func TestSignIn(t *testing.T) {
	ts := newTestConsole(t)
	if w := ts.signIn("slk_wrong"); w.Code != http.StatusUnauthorized || ts.cookie != nil || strings.Contains(w.Body.String(), "slk_wrong") {
		t.Errorf("wrong key: %d %v", w.Code, ts.cookie)
	}
	w := ts.signIn(" " + shopKey + "\n")
	if w.Code != http.StatusSeeOther || ts.cookie == nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if c := ts.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/console/" || strings.Contains(c.Value, "slk") || c.MaxAge != 3600 {
		t.Errorf("cookie %+v", c)
	}
	if body := ts.get("/console/"); !strings.Contains(body, "SHOPKEY") {
		t.Error(body)
	}
	first := ts.cookie
	ts.signIn(shopKey)
	if ts.cookie.Value == first.Value {
		t.Error("a second sign-in has the same session")
	}
	if w := ts.do(http.MethodPost, "/console/sign-out", nil); w.Code != http.StatusSeeOther {
		t.Errorf("sign out: %d", w.Code)
	}
	for _, c := range []*http.Cookie{first, ts.cookie} { // the second sign-in has ended the first session
		ts.cookie = c
		if w := ts.do(http.MethodGet, "/console/", nil); w.Code != http.StatusSeeOther {
			t.Errorf("after signing out: %d", w.Code)
		}
	}
}

func TestCookieIsSecureWithTLS(t *testing.T) {
	ts := newTestConsole(t)
	w := ts.do(http.MethodPost, "/console/sign-in", url.Values{"key": {shopKey}}, "X-Forwarded-Proto: https")
	if cookies := w.Result().Cookies(); len(cookies) != 1 || !cookies[0].Secure {
		t.Error(cookies)
	}
}

func TestFailedSignInsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestConsole(t)
		limited := 0
		for range 30 {
			if ts.signIn("slk_wrong").Code == http.StatusTooManyRequests {
				limited++
			}
		}
		if limited != 20 {
			t.Errorf("%d of 30 attempts were limited, want 20", limited)
		}
		if w := ts.signIn(shopKey); w.Code != http.StatusTooManyRequests {
			t.Errorf("a key is tried at the limit: %d", w.Code)
		}
		time.Sleep(time.Minute)
		if w := ts.signIn(shopKey); w.Code != http.StatusSeeOther {
			t.Errorf("a minute later: %d", w.Code)
		}
	})
}

func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTestConsole(t)
		ts.signIn(shopKey)
		time.Sleep(59 * time.Minute)
		ts.get("/console/")
		time.Sleep(time.Minute)
		if w := ts.do(http.MethodGet, "/console/", nil); w.Code != http.StatusSeeOther {
			t.Errorf("after its lifetime: %d", w.Code)
		}
		ts.signIn(shopKey)
		ts.revoke(shopHash)
		if w := ts.do(http.MethodGet, "/console/", nil); w.Code != http.StatusSeeOther {
			t.Errorf("after the key was removed: %d", w.Code)
		}
	})
}

func TestKeySeesOnlyItsApp(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(shopKey)
	for _, path := range []string{"/console/", "/console/?app=shop", "/console/?app=bank", "/console/notifications", "/console/unregistered", "/console/send", "/console/send?app=bank"} {
		body := ts.get(path)
		if strings.Contains(body, "BANKKEY") || strings.Contains(body, ">bank<") || strings.Contains(body, "1,234") {
			t.Errorf("%s shows another app", path)
		}
	}
	ts.signIn(adminKey)
	if body := ts.get("/console/"); !strings.Contains(body, "BANKKEY") || !strings.Contains(body, "SHOPKEY") {
		t.Error("an admin does not see all apps")
	}
	if body := ts.get("/console/?app=bank"); !strings.Contains(body, "BANKKEY") || strings.Contains(body, "SHOPKEY") {
		t.Error("the filter by app does not work")
	}
	ts.signIn(otherKey)
	if body := ts.get("/console/"); !strings.Contains(body, "BANKKEY") || strings.Contains(body, "SHOPKEY") {
		t.Error(body)
	}
	if body := ts.get("/console/notifications?id=" + knownID); !strings.Contains(body, "No notification has this ID") || strings.Contains(body, "192.0.2.2") {
		t.Error("a notification of another app is shown")
	}
}

func TestScopes(t *testing.T) {
	ts := newTestConsole(t)
	form := url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {deviceToken}, "title": {"Hi"}}
	ts.signIn(readKey)
	if body := ts.get("/console/"); strings.Contains(body, "/console/send") {
		t.Error("a key without the scope send has a link to the page that sends")
	}
	if body := ts.do(http.MethodPost, "/console/send/preview", form).Body.String(); strings.Contains(body, "api.push.apple.com") {
		t.Error("a key without the scope send has a preview")
	}
	ts.signIn(sendKey)
	if body := ts.get("/console/"); strings.Contains(body, "SHOPKEY") || !strings.Contains(body, "no scope") {
		t.Error("a key without the scope read sees the traffic")
	}
	if body := ts.get("/console/notifications?id=" + knownID); strings.Contains(body, "192.0.2.2") {
		t.Error("a key without the scope read sees a notification")
	}
	if body := ts.do(http.MethodPost, "/console/send", form).Body.String(); !strings.Contains(body, knownID) || len(ts.calls) != 1 {
		t.Errorf("%v %s", ts.calls, body)
	}
}

func TestCrossOriginPostsAreRefused(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(shopKey)
	form := url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {deviceToken}, "title": {"Hi"}, "key": {shopKey}}
	for _, header := range [][]string{{"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Sec-Fetch-Site: ", "Origin: https://attacker.example"}} {
		for _, path := range []string{"/console/send", "/console/send/preview", "/console/sign-in", "/console/sign-out"} {
			if w := ts.do(http.MethodPost, path, form, header...); w.Code != http.StatusForbidden {
				t.Errorf("%s %v: %d", path, header, w.Code)
			}
		}
	}
	if len(ts.calls) > 0 {
		t.Error(ts.calls)
	}
	ts.get("/console/") // the session goes on
}

func TestLinkFromOtherSiteReloads(t *testing.T) {
	ts := newTestConsole(t)
	w := ts.do(http.MethodGet, "/console/", nil, "Sec-Fetch-Site: cross-site") // without the strict cookie
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `http-equiv="refresh"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// checkElements fails the test if a document has an inline script or style, or refers to another host.
func checkElements(t *testing.T, name, document string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	for node := range root.Descendants() {
		if node.Type != html.ElementNode {
			continue
		}
		if node.Data == "style" || node.Data == "img" || node.Data == "base" || node.Data == "script" && node.FirstChild != nil {
			t.Errorf("%s: an element %s", name, node.Data)
		}
		for _, a := range node.Attr {
			isURL := a.Key == "src" || a.Key == "href" || a.Key == "action" || strings.HasPrefix(a.Key, "hx-get") || strings.HasPrefix(a.Key, "hx-post")
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") || isURL && !strings.HasPrefix(a.Val, "/console/") && a.Val != "#main" {
				t.Errorf("%s: an element %s with %s=%q", name, node.Data, a.Key, a.Val)
			}
		}
	}
}

func TestPagesAreStrictAndEscaped(t *testing.T) {
	ts := newTestConsole(t)
	var bodies []string
	check := func(method, path string, form url.Values) {
		w := ts.do(method, path, form)
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s: policy %q", path, policy)
		}
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, w.Header())
		}
		bodies = append(bodies, path+"\n"+w.Body.String())
	}
	check("GET", "/console/sign-in", nil)
	check("GET", "/console/no-such-page", nil)
	ts.signIn(shopKey)
	for _, path := range pages[:len(pages)-1] {
		check("GET", path, nil)
	}
	check("GET", "/console/?app="+url.QueryEscape(hostile), nil)
	check("GET", "/console/notifications?id="+url.QueryEscape(hostile), nil)
	form := url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {deviceToken}}
	for _, name := range []string{"title", "subtitle", "body", "image", "sound", "collapse"} {
		form.Set(name, hostile)
	}
	check("POST", "/console/send/preview", form)
	check("POST", "/console/send", form)
	form.Set("block", hostile)
	form.Set("badge", hostile)
	check("POST", "/console/send", form)
	for _, body := range bodies {
		path, document, _ := strings.Cut(body, "\n")
		checkElements(t, path, document)
	}
	if all := strings.Join(bodies, ""); !strings.Contains(all, "&lt;script&gt;alert(1)") {
		t.Error("the hostile text is not shown at all")
	}
}

func TestNoPageShowsWholeToken(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(shopKey)
	form := url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {deviceToken}, "title": {"Hi"}}
	for path, body := range map[string]string{
		"preview":       ts.do(http.MethodPost, "/console/send/preview", form).Body.String(),
		"notifications": ts.get("/console/notifications?id=" + knownID), "unregistered": ts.get("/console/unregistered"),
	} {
		if strings.Contains(body, deviceToken) {
			t.Errorf("%s shows a whole token", path)
		}
		if path == "preview" && !strings.Contains(body, "…1de8f0") {
			t.Errorf("%s does not show the end of the token: %s", path, body)
		}
	}
}

func TestTimeline(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(readKey)
	body := ts.get("/console/notifications?id="+knownID, "HX-Request: true")
	if strings.Contains(body, "<html") {
		t.Error("htmx gets a whole page")
	}
	for _, part := range []string{`data-status="refused"`, "attempt 1", "HTTP 400", "192.0.2.2:443", "+1,000 ms", "took 30 ms"} {
		if !strings.Contains(body, part) {
			t.Errorf("%q is missing in %s", part, body)
		}
	}
	if queued, attempt := strings.Index(body, "<b>queued</b>"), strings.Index(body, "attempt 1"); queued < 0 || queued > attempt {
		t.Error("the timeline has another order")
	}
	if body := ts.get("/console/notifications?id=4711"); !strings.Contains(body, "An ID is a UUID") {
		t.Error(body)
	}
}

func TestSearch(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(readKey)
	if body := ts.get("/console/notifications?tag=promo&since=-1h"); !strings.Contains(body, "4,321") || !strings.Contains(body, "p99 3.0 ms") ||
		!slices.Contains(ts.calls, "GET /v1/apps/shop/stats?by=status&since=-1h&tag=promo ") {
		t.Error(ts.calls, body)
	}
	ts.calls = nil
	body := ts.get("/console/notifications?tag=promo&status=refused&since=-1h&cursor=x")
	if len(ts.calls) != 1 || ts.calls[0] != "GET /v1/apps/shop/notifications?cursor=x&limit=50&since=-1h&status=refused&tag=promo " {
		t.Error(ts.calls)
	}
	if !strings.Contains(body, `href="/console/notifications?id=`+knownID) || !strings.Contains(body, `cursor=a%26b`) || !strings.Contains(body, "Older") {
		t.Error(body)
	}
	if body := ts.get("/console/notifications?app=bank"); !strings.Contains(body, "The API key belongs to another app") {
		t.Error(body)
	}
}

func TestUnregisteredTokens(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(readKey)
	body := ts.get("/console/unregistered")
	for _, part := range []string{"…1de8f0", "09ff825c4a48d460", knownID, "Older"} {
		if !strings.Contains(body, part) {
			t.Errorf("%q is missing in %s", part, body)
		}
	}
	if strings.Contains(body, deviceToken) {
		t.Error("the page shows a whole token")
	}
}

func TestSendErrorsNameTheField(t *testing.T) {
	ts := newTestConsole(t)
	ts.signIn(shopKey)
	for want, form := range map[string]url.Values{
		"<b>badge</b> must be a whole number":  {"badge": {"x"}, "title": {"Hi"}},
		"<b>ttl</b> must be a duration":        {"ttl": {"x"}, "title": {"Hi"}},
		"<b>data</b> each line":                {"data": {"x"}, "title": {"Hi"}},
		"<b>block</b> must be a JSON object":   {"block": {"{"}, "title": {"Hi"}},
		"<b>title</b> title: must be set":      {},
		"<b>platform</b>":                      {"platform": {"x"}, "title": {"Hi"}},
		"<b>target</b> enter a subscription":   {"platform": {"webpush"}, "kind": {"subscription"}, "target": {""}, "title": {"Hi"}},
		"<b>target</b> must be the JSON of a ": {"platform": {"webpush"}, "kind": {"subscription"}, "target": {"{"}, "title": {"Hi"}},
	} {
		all := url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {deviceToken}}
		for name, values := range form {
			all[name] = values
		}
		if body := ts.do(http.MethodPost, "/console/send/preview", all).Body.String(); !strings.Contains(body, want) && want != "<b>platform</b>" {
			t.Errorf("%q is missing in %s", want, body)
		}
	}
}

func TestDevSignsInWithoutKey(t *testing.T) {
	ts := newTestConsole(t)
	dev := url.Values{"dev": {"1"}}
	if w := ts.do(http.MethodPost, "/console/sign-in", dev); w.Code != http.StatusUnauthorized {
		t.Errorf("without dev: %d", w.Code)
	}
	if w := ts.do(http.MethodGet, "/console/faults", nil); w.Code != http.StatusNotFound {
		t.Errorf("faults without dev: %d", w.Code)
	}
	ts = newTestConsole(t, func(cfg *console.Config) { cfg.Dev = &console.Dev{Key: shopKey, Mock: &fakeMock{}} })
	for host, status := range map[string]int{"127.0.0.1:9090": http.StatusSeeOther, "localhost:9090": http.StatusSeeOther, "attacker.example:9090": http.StatusUnauthorized, "192.0.2.1:9090": http.StatusUnauthorized} {
		if w := ts.do(http.MethodPost, "/console/sign-in", dev, "Host: "+host); w.Code != status {
			t.Errorf("dev at %s: %d", host, w.Code)
		}
	}
	if !strings.Contains(ts.get("/console/sign-in"), "Open the demo console") {
		t.Error("the button is missing")
	}
}

// fakeMock records what the console does to the mock providers.
type fakeMock struct{ applied []string }

func (*fakeMock) Services() []console.MockService {
	return []console.MockService{{Name: "apns", Endpoints: []string{"127.0.0.1:1"}}}
}
func (*fakeMock) Faults() []string { return []string{hostile} }
func (m *fakeMock) Apply(kind, service string, _ int) error {
	m.applied = append(m.applied, kind+" "+service)
	return nil
}
func (*fakeMock) Traffic(bool)  {}
func (*fakeMock) Sending() bool { return false }

func TestFaults(t *testing.T) {
	mock := &fakeMock{}
	ts := newTestConsole(t, func(cfg *console.Config) { cfg.Dev = &console.Dev{Key: shopKey, Mock: mock} })
	form := url.Values{"kind": {"break"}, "service": {"apns"}, "endpoint": {"0"}}
	if w := ts.do(http.MethodPost, "/console/faults", form); w.Code != http.StatusSeeOther || len(mock.applied) > 0 {
		t.Errorf("without a session: %d", w.Code)
	}
	ts.signIn(shopKey)
	body := ts.do(http.MethodPost, "/console/faults", form, "HX-Request: true").Body.String()
	if len(mock.applied) != 1 || mock.applied[0] != "break apns" || strings.Contains(body, "<script>alert") || strings.Contains(body, "<html") {
		t.Errorf("%v %s", mock.applied, body)
	}
}
