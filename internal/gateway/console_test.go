// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// consoleClient is a browser that has signed in to the console of a gateway.
type consoleClient struct {
	*testing.T
	http.Client
	base string
}

func newConsoleClient(t *testing.T, adminURL, key string) *consoleClient {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &consoleClient{T: t, Client: http.Client{Jar: jar}, base: adminURL + "/console/"}
	if body := c.post("sign-in", url.Values{"key": {key}}); !strings.Contains(body, "<h1>Live</h1>") {
		t.Fatal(body)
	}
	return c
}

func (c *consoleClient) post(path string, form url.Values) string {
	c.Helper()
	return c.read(c.PostForm(c.base+path, form))
}

func (c *consoleClient) get(path string) string {
	c.Helper()
	return c.read(c.Get(c.base + path))
}

func (c *consoleClient) read(response *http.Response, err error) string {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.Fatal(err)
	}
	return string(body)
}

// TestConsoleShowsTheExactRequest compares the preview with what the mock receives.
func TestConsoleShowsTheExactRequest(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{KeepContent: true}, "")
	c := newConsoleClient(t, r.adminURL, r.key)
	form := url.Values{"app": {"shop"}, "platform": {"apns"}, "kind": {"token"}, "target": {strings.Repeat("0a", 32)}, "title": {"Hello"}, "body": {"World"}, "collapse": {"k1"}}
	preview := c.post("send/preview", form)
	if result := c.post("send", form); !strings.Contains(result, `data-status="accepted"`) {
		t.Fatal(result)
	}
	got := r.mock.Ledger().Expect(t, mockprovider.Query{Service: mockprovider.APNs, Status: 200}, 1)[0]
	if !strings.Contains(preview, "apns-collapse-id: k1") || !strings.Contains(preview, "apns-topic: "+got.Topic) || strings.Contains(preview, form.Get("target")) {
		t.Error(preview)
	}
	compact := strings.NewReplacer("\n", "", " ", "", "&#34;", `"`).Replace(preview)
	if body := got.Body; !strings.Contains(compact, strings.ReplaceAll(body, " ", "")) {
		t.Errorf("the preview does not contain %s:\n%s", body, preview)
	}
	form.Set("platform", "fcm")
	form.Set("target", "abc:"+strings.Repeat("A", 134))
	if preview := c.post("send/preview", form); !strings.Contains(preview, "/messages:send") || !strings.Contains(preview, "…AAAAAA") {
		t.Error(preview)
	}
	if live := c.get("?app=shop"); !strings.Contains(live, r.mock.APNsAddrs()[0].String()) {
		t.Error(live)
	}
	if other := newConsoleClient(t, r.adminURL, r.otherKey).get(""); strings.Contains(other, r.mock.APNsAddrs()[0].String()) {
		t.Error("the key of another app sees this one")
	}
}

func TestConsoleCanBeOff(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "console: { off: true }\n")
	response, err := http.Get(r.adminURL + "/console/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Error(response.StatusCode)
	}
}

// TestConsoleSearchesTheCluster sends through one gateway of a cluster, and finds the notifications in the
// console of the other: by tag, by status and by ID, also those that it did not send.
func TestConsoleSearchesTheCluster(t *testing.T) {
	s := newMockEnv(t)
	text := listenConfig + slowTimeouts + fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", jetstreamtest.StartServer(t)) + "apps:\n" + s.appBlock("shop", s.apnsBlock())
	sender, other := s.start(t, text), s.start(t, text)
	dead := "dead0000" + deviceToken[8:]
	send := func(token string, headers ...string) string {
		t.Helper()
		code, got := sender.request("POST", "", apnsNotificationWith(token, `,"tags":["campaign:42"]`), headers...)
		if code >= 300 {
			t.Fatal(code, got)
		}
		return fmt.Sprint(got["id"])
	}
	queued, refused, direct := send(deviceToken, "Prefer", "respond-async"), send(dead, "Prefer", "respond-async"), send(deviceToken)
	c := newConsoleClient(t, other.adminURL, other.key)
	testwait.Until(t, func() bool {
		return strings.Count(c.get("notifications?tag=campaign:42&status=accepted"), "/console/notifications?id=") == 2
	}, "both accepted notifications are found")
	testwait.Until(t, func() bool { return strings.Contains(c.get("notifications?status=unregistered"), refused) }, "the unregistered notification is found")
	if page := c.get("notifications?status=unregistered"); strings.Contains(page, queued) || strings.Contains(page, direct) {
		t.Error(page)
	}
	for id, status := range map[string]string{queued: "accepted", direct: "accepted", refused: "unregistered"} {
		if page := c.get("notifications?id=" + id); !strings.Contains(page, `data-status="`+status+`"`) {
			t.Errorf("%s: %s", status, page)
		}
	}
	testwait.Until(t, func() bool { return strings.Contains(c.get("unregistered"), dead[len(dead)-6:]) }, "the unregistered token is listed")
}
