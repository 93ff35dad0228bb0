// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

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
