// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// cuttingTransport cuts the connection of each of the first uploads after a number of bytes.
type cuttingTransport struct {
	http.RoundTripper
	cuts, after int
}

func (c *cuttingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPatch && c.cuts > 0 {
		c.cuts--
		r.Body = &cutBody{r.Body, c.after}
	}
	return c.RoundTripper.RoundTrip(r)
}

type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errors.New("the connection is cut")
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// audience returns an audience of n devices and two lines that cannot be sent.
func audience(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"token\":%q,\"key\":\"user-%d\"}\n", token(i), i)
	}
	return b.String() + "{\"token\":17}\n" + fmt.Sprintf("{\"token\":%q}\n", token(0))
}

func TestBroadcastReachesEachDeviceOnce(t *testing.T) {
	const devices = 400
	env := newTestEnv(t)
	h := env.startGateway(anyPort, fmt.Sprintf("queue: {dir: %q}\n", t.TempDir()))
	c := env.newClient(client.Config{}, h.url())
	b := c.Broadcasts()
	created, err := b.Create(t.Context(), json.RawMessage(`{"name":"sale","message":{"title":"Sale"},"audience":{"platform":"apns"},"recall":{"message":{"title":"Sorry"}}}`))
	if err != nil || created.State != client.BroadcastDraft || created.ETag == "" || !bytes.Contains(created.JSON, []byte(`"Sorry"`)) {
		t.Fatalf("%+v %v", created, err)
	}

	definition, err := created.Definition()
	if err != nil || bytes.Contains(definition, []byte(`"state"`)) {
		t.Fatalf("%s %v", definition, err)
	}
	replaced, err := b.Replace(t.Context(), created.ID, definition, created.ETag)
	if err != nil || replaced.ETag == created.ETag || replaced.Name != "sale" {
		t.Fatalf("%+v %v", replaced, err)
	}
	previews, err := b.Preview(t.Context(), created.ID)
	if err != nil || len(previews.Message) != 3 || len(previews.Recall) != 3 {
		t.Fatalf("%+v %v", previews, err)
	}
	if apns, fcm := previews.Message[0], previews.Message[1]; apns.Request == nil || !strings.Contains(apns.Request.Payload, `"Sale"`) || !bytes.Contains(apns.JSON, []byte(`"notification"`)) || fcm.Request != nil || fcm.Problem != "" {
		t.Errorf("%+v %+v", apns, fcm) // the app has only APNs
	}

	base, err := url.Parse(h.url())
	if err != nil {
		t.Fatal(err)
	}
	plain := &http.Transport{}
	t.Cleanup(plain.CloseIdleConnections)
	cut := client.NewBroadcasts(base, "shop", env.key, &cuttingTransport{plain, 2, 10_000})
	interrupted, last := 0, int64(0)
	err = cut.Upload(t.Context(), created.ID, client.Audience{Format: client.NDJSON, Content: strings.NewReader(audience(devices)), Progress: func(offset int64, err error) {
		if last = offset; err != nil {
			interrupted++
		}
	}})
	if err != nil || interrupted < 2 || last != int64(len(audience(devices))) {
		t.Fatalf("%v after %d interruptions, %d bytes", err, interrupted, last)
	}

	for _, command := range []client.BroadcastCommand{client.CommandValidate, client.CommandStart, client.CommandRecall} {
		if _, err := b.Do(t.Context(), created.ID, command, client.CommandOptions{}); err != nil {
			t.Fatal(command, err)
		}
		var now *client.Broadcast
		testwait.Until(t, func() bool {
			now, err = b.Get(t.Context(), created.ID)
			return err != nil || now.State == client.BroadcastReady || now.IsFinished()
		}, string(command)+" has ended")
		if err != nil {
			t.Fatal(err)
		}
		switch command {
		case client.CommandValidate:
			if v := now.Validation; v == nil || v.Valid != devices || v.Invalid != 1 || v.Duplicates != 1 || v.Platforms[push.APNs] != devices {
				t.Fatalf("%+v", v)
			}
		case client.CommandStart:
			if n := now.Current(); n.Ended() != devices || n.Reached() != devices || len(n.By) != 1 || n.By[0].Count != devices {
				t.Fatalf("%+v", n)
			}
		default:
			if n := now.Current(); !now.InRecall || n.Accepted != devices || now.Counts.Accepted != devices {
				t.Fatalf("%+v", n)
			}
		}
	}
	if _, accepted := env.counts(); len(accepted) != devices || accepted[token(0)] != 2 || accepted[token(devices-1)] != 2 {
		t.Errorf("%d devices, the first one got %d", len(accepted), accepted[token(0)])
	}

	var lines []client.InvalidLine
	for line, err := range b.Invalid(t.Context(), created.ID) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if len(lines) != 2 || lines[0].Line != devices+1 || lines[0].Reason != "InvalidField" || lines[1].Reason != "DuplicateTarget" {
		t.Errorf("%+v", lines)
	}
	var results bytes.Buffer
	if err := b.Export(t.Context(), created.ID, client.CSV, &results); err != nil || strings.Count(results.String(), ",accepted,,accepted,") != devices {
		t.Errorf("%v %.200s", err, results.String())
	}
	if found, err := b.Devices(t.Context(), created.ID); err != nil || found.Devices < devices*97/100 || found.Devices > devices*103/100 || found.StandardError == 0 || len(found.Broadcasts) != 1 || found.Broadcasts[0].ID != created.ID {
		t.Errorf("%+v %v", found, err)
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 1 || list[0].ID != created.ID || list[0].State != client.BroadcastRecalled {
		t.Errorf("%+v %v", list, err)
	}
	if err := b.Delete(t.Context(), created.ID); err != nil {
		t.Error(err)
	}
}

func TestBroadcastErrors(t *testing.T) {
	env := newTestEnv(t)
	h := env.startGateway(anyPort, fmt.Sprintf("queue: {dir: %q}\n", t.TempDir()))
	c := env.newClient(client.Config{}, h.url())
	b := c.Broadcasts()
	created, err := b.Create(t.Context(), map[string]any{"message": map[string]string{"title": "Sale"}, "audience": map[string]string{"platform": "apns"}})
	if err != nil {
		t.Fatal(err)
	}
	const unknown = "01a22d66-c53c-8acb-97c2-7d90ad8c5c00"
	for _, f := range []struct {
		want string
		call func() error
	}{
		{"invalid-field", func() error { _, err := b.Create(t.Context(), struct{}{}); return err }},
		{"not-found", func() error { _, err := b.Get(t.Context(), unknown); return err }},
		{"not-found", func() error { _, err := b.Devices(t.Context(), unknown); return err }},
		{"not-possible", func() error { _, err := b.Devices(t.Context(), created.ID); return err }},
		{"invalid-parameter", func() error { _, err := b.Devices(t.Context()); return err }},
		{"not-possible", func() error {
			_, err := b.Do(t.Context(), created.ID, client.CommandStart, client.CommandOptions{})
			return err
		}},
		{"precondition-failed", func() error {
			_, err := b.Do(t.Context(), created.ID, client.CommandValidate, client.CommandOptions{IfMatch: `"7777777"`})
			return err
		}},
		{"precondition-failed", func() error {
			_, err := b.Replace(t.Context(), created.ID, map[string]any{"message": map[string]string{"title": "Sale"}}, `"7777777"`)
			return err
		}},
		{"not-possible", func() error {
			_, err := b.Do(t.Context(), created.ID, client.CommandRecall, client.CommandOptions{Recall: map[string]any{"message": map[string]string{"title": "Sorry"}}})
			return err
		}},
		{"not-found", func() error {
			return b.Upload(t.Context(), unknown, client.Audience{Format: client.NDJSON, Content: strings.NewReader("x")})
		}},
		{"not-possible", func() error { return b.Export(t.Context(), created.ID, client.NDJSON, io.Discard) }},
	} {
		err := f.call()
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Type != f.want || e.Status == 0 {
			t.Errorf("%v, want %s", err, f.want)
		}
	}
	broken := client.Audience{Format: client.NDJSON, Content: struct {
		io.Reader
		io.Seeker
	}{&cutBody{io.NopCloser(strings.NewReader("x")), 0}, strings.NewReader(audience(1))}}
	if err := b.Upload(t.Context(), created.ID, broken); err == nil || !strings.Contains(err.Error(), "cannot read the audience: the connection is cut") {
		t.Error(err)
	}
	if _, err := client.Direct("shop", fixedSender{push.Accepted}).Broadcasts().List(t.Context()); err == nil {
		t.Error("a direct client has broadcasts")
	}
}
