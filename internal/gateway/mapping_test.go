// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const mappingFile = "../../docs/mapping.md"

// TestMappingDocIsUpToDate generates docs/mapping.md from the providers and compares it with the
// file. After a change, make reference writes the file.
func TestMappingDocIsUpToDate(t *testing.T) {
	var want string
	synctest.Test(t, func(t *testing.T) { want = mappingTable(t) })
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(mappingFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(mappingFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Fatalf("%s is out of date, update it with make reference (-want +got):\n%s", mappingFile, diff)
	}
}

const mappingHead = `# Mapping of the common fields

A test generates this table from the providers. Each cell lists what a field adds to the request
when it has the value in the first column. The platform-specific blocks take precedence:

- ` + "`apns.payload`" + ` replaces the whole payload.
- ` + "`fcm.message`" + ` is merged into the message, object by object. Fields that depend on others, such as
  the background push of a message with nothing to show, follow from the merged message. The names
  of headers are case-insensitive. With ` + "`android_v2`" + ` in the message, ` + "`ttl`" + `, ` + "`collapse_key`" + ` and
  ` + "`sound`" + ` go there instead of to ` + "`android`" + `.
- ` + "`webpush.payload`" + ` replaces the plaintext.
- ` + "`webpush.notification`" + ` is merged into the plaintext, option by option. A declarative push message
  has the options in ` + "`notification`" + ` (` + "`subtitle`" + ` as the first line of ` + "`body`" + `), ` + "`app_badge`" + ` in it and
  beside it, and repeats the members below for older service workers.
- ` + "`headers`" + ` replace the generated headers of the same name.

| field | APNs | FCM | Web Push |
|---|---|---|---|
`

// mappingTable returns the document.
func mappingTable(t *testing.T) string {
	hour, now, badge := push.Duration(time.Hour), push.Duration(0), 3
	rows := []struct {
		name string
		set  func(*push.Notification)
	}{
		{`title: "T"`, func(n *push.Notification) { n.Title = "T" }},
		{`subtitle: "S"`, func(n *push.Notification) { n.Subtitle = "S" }},
		{`body: "B"`, func(n *push.Notification) { n.Body = "B" }},
		{`image: "https://example.com/i"`, func(n *push.Notification) { n.Image = "https://example.com/i" }},
		{`badge: 3`, func(n *push.Notification) { n.Badge = &badge }},
		{`sound: "ping"`, func(n *push.Notification) { n.Sound = "ping" }},
		{`data: {"k": "v"}`, func(n *push.Notification) { n.Data = map[string]string{"k": "v"} }},
		{`data: {"k": "v"}, nothing to show`, func(n *push.Notification) { n.Title, n.Data = "", map[string]string{"k": "v"} }},
		{`priority: "high"`, func(n *push.Notification) { n.Priority = push.PriorityHigh }},
		{`priority: "normal"`, func(n *push.Notification) { n.Priority = push.PriorityNormal }},
		{`priority: "low"`, func(n *push.Notification) { n.Priority = push.PriorityLow }},
		{`ttl: "1h"`, func(n *push.Notification) { n.TTL = &hour }},
		{`ttl: "0s"`, func(n *push.Notification) { n.TTL = &now }},
		{`collapse_key: "c"`, func(n *push.Notification) { n.CollapseKey = "c" }},
		{`collapse_key: "two words"`, func(n *push.Notification) { n.CollapseKey = "two words" }},
		{`webpush.notification: {"navigate": "https://example.com/"}`, func(n *push.Notification) { n.WebPush = navigateBlock(false) }},
		{`the same with webpush.declarative: true`, func(n *push.Notification) { n.WebPush = navigateBlock(true) }},
		{`dry_run: true`, func(n *push.Notification) { n.DryRun = true }},
		{`tags: ["a"]`, func(n *push.Notification) { n.Tags = []string{"a"} }},
	}
	var b strings.Builder
	b.WriteString(mappingHead)
	platforms := newMappers(t)
	for i, row := range rows {
		fmt.Fprintf(&b, "| `%s` |", row.name)
		for _, p := range platforms {
			base := map[string]bool{}
			if i > 0 {
				base = p.lines(t, func(n *push.Notification) { n.Title = "T" })
			}
			with := p.lines(t, func(n *push.Notification) { n.Title = "T"; row.set(n) })
			var added []string
			for _, line := range slices.Sorted(maps.Keys(with)) {
				if !base[line] && (i > 0 || strings.HasSuffix(line, "T")) {
					added = append(added, "`"+line+"`")
				}
			}
			fmt.Fprintf(&b, " %s |", strings.Join(added, "<br>"))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func navigateBlock(declarative bool) *push.WebPushBlock {
	return &push.WebPushBlock{Notification: json.RawMessage(`{"navigate":"https://example.com/"}`), Declarative: &declarative}
}

// mapper translates notifications for one provider.
type mapper struct {
	provider delivery.Provider
	target   push.Target
	read     func(*testing.T, []byte) []byte
}

func newMappers(t *testing.T) []mapper {
	as := func(_ *testing.T, body []byte) []byte { return body }
	apple, err := apns.New(apns.Config{Topic: "com.example.app"})
	if err != nil {
		t.Fatal(err)
	}
	google, err := fcm.New(fcm.Config{Account: testServiceAccount(t)})
	if err != nil {
		t.Fatal(err)
	}
	key, err := webpush.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	browsers, err := webpush.New(webpush.Config{Key: key, Subject: "mailto:a@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	private, _ := ecdh.P256().GenerateKey(rand.Reader)
	subscription := &push.Subscription{Endpoint: "https://fcm.googleapis.com/x", Keys: push.SubscriptionKeys{
		P256dh: base64.RawURLEncoding.EncodeToString(private.PublicKey().Bytes()), Auth: base64.RawURLEncoding.EncodeToString(make([]byte, 16)),
	}}
	return []mapper{
		{apple, push.Target{Token: deviceToken}, as}, {google, push.Target{Token: "a:b"}, as},
		{browsers, push.Target{Subscription: subscription}, func(t *testing.T, body []byte) []byte { return decrypt(t, private, body) }},
	}
}

func testServiceAccount(t *testing.T) []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(key)
	text, _ := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "demo", "client_email": "a@example.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	return text
}

// decrypt decrypts a body as a browser does (RFC 8291). The authentication secret is 16 zero bytes.
func decrypt(t *testing.T, private *ecdh.PrivateKey, body []byte) []byte {
	sender, err := ecdh.P256().NewPublicKey(body[21:86])
	if err != nil {
		t.Fatal(err)
	}
	shared, _ := private.ECDH(sender)
	info := "WebPush: info\x00" + string(private.PublicKey().Bytes()) + string(body[21:86])
	material, _ := hkdf.Key(sha256.New, shared, make([]byte, 16), info, 32)
	key, _ := hkdf.Key(sha256.New, material, body[:16], "Content-Encoding: aes128gcm\x00", 16)
	nonce, _ := hkdf.Key(sha256.New, material, body[:16], "Content-Encoding: nonce\x00", 12)
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCM(block)
	text, err := aead.Open(nil, nonce, body[86:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return text[:len(text)-1]
}

// lines returns the headers of a request and the leaves of its body.
func (m mapper) lines(t *testing.T, set func(*push.Notification)) map[string]bool {
	n := &push.Notification{ID: "eabeae54-14a8-11e5-b60b-1697f925ec7b", AcceptedAt: time.Now(), Target: m.target}
	set(n)
	r, err := m.provider.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, f := range r.Header {
		all[headerLine(f)] = true
	}
	var body any
	if err := json.Unmarshal(m.read(t, r.Body), &body); err != nil {
		t.Fatal(err)
	}
	leafLines(all, "", body)
	return all
}

func headerLine(f wire.Field) string { return f.Name + ": " + maskTime(f.Value) }

// maskTime replaces a time that depends on the test's clock.
func maskTime(v string) string {
	if v == fmt.Sprint(time.Now().Add(time.Hour).Unix()) {
		return "(expiry as Unix time)"
	}
	return v
}

func leafLines(all map[string]bool, path string, v any) {
	if object, ok := v.(map[string]any); ok {
		for name, member := range object {
			leafLines(all, strings.TrimPrefix(path+"."+name, "."), member)
		}
		return
	}
	all[path+" = "+maskTime(fmt.Sprint(v))] = true
}
