// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

// The peer decodes what was sent, for any sequence of requests and of HPACK table sizes.
func TestRepeatedFieldsAreDecodedAsSent(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				c := newTestConn(t, wire.Config{})
				r := &wire.Request{}
				for i := range 300 {
					if rng.IntN(40) == 0 {
						c.peer.sendSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: []uint32{0, 150, 4096}[rng.IntN(3)]})
						c.peer.nextFrame(http2.FrameSettings)
					}
					if r.Path = fmt.Sprint("/", i); i%2 == 0 {
						r = randomRequest(rng, r.Path)
					}
					want := map[string]string{":method": r.Method, ":scheme": "https", ":authority": "push.example", ":path": r.Path}
					secret := map[string]bool{":path": true}
					for _, f := range r.Header {
						want[f.Name], secret[f.Name] = f.Value, f.NeverIndexed
					}
					done := c.start(t.Context(), r)
					h := c.peer.nextFrame(http2.FrameHeaders)
					if !maps.Equal(h.fields, want) {
						t.Fatalf("request %d: got %v, want %v", i, h.fields, want)
					}
					for name := range want {
						if h.neverIndexed[name] != secret[name] {
							t.Errorf("request %d: never-indexed(%s) is %t", i, name, h.neverIndexed[name])
						}
					}
					c.peer.respond(h.stream, "200")
					wantStatus(t, <-done, 200)
				}
			})
		})
	}
}

// randomRequest returns a request whose fields often differ from those of the one before.
func randomRequest(rng *rand.Rand, path string) *wire.Request {
	r := &wire.Request{Method: "POST", Path: path, Header: []wire.Field{{Name: "authorization", Value: "a"}}}
	if rng.IntN(20) == 0 {
		r.Method = "DELETE"
	}
	if rng.IntN(10) == 0 {
		r.Header[0].Value = strings.Repeat("b", rng.IntN(2000)) // evicts others from the table
	}
	for _, name := range []string{"apns-topic", "apns-priority", "apns-id", "apns-expiration"} {
		if rng.IntN(8) > 0 {
			value := fmt.Sprint(name, max(0, rng.IntN(12)-9))
			r.Header = append(r.Header, wire.Field{Name: name, Value: value, NeverIndexed: name == "apns-id"})
		}
	}
	return r
}
