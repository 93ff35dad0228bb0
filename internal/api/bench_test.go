// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/push"
)

const typical = `{"platform":"apns","token":"5f2b8d0a6c1e4f73905b2a8d7c6e1f0449a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9",` +
	`"title":"Your parcel is here","body":"The courier left it at the door.","data":{"parcel":"81273"},"collapse_key":"parcel-81273"}`

// acceptAll accepts everything and records nothing.
type acceptAll struct{}

func (acceptAll) Send(_ context.Context, c *push.Call) *push.Receipt {
	c.Receipt = accepted(c.Notification)
	return &c.Receipt
}

func (a acceptAll) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, a.Send)
}

// discardWriter is a ResponseWriter without costs.
type discardWriter http.Header

func (w discardWriter) Header() http.Header       { return http.Header(w) }
func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) WriteHeader(int)             {}
func (discardWriter) Flush()                      {}

func post(b *testing.B, path, media, body string) {
	ts := newTestAPI(b, func(cfg *testConfig) { cfg.Sender = acceptAll{} })
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+sendKey)
		r.Header.Set("Content-Type", media)
		ts.ServeHTTP(discardWriter{}, r)
	}
}

func BenchmarkSingle(b *testing.B) { post(b, singlePath, "application/json", typical) }

// BenchmarkTargets sends one notification to 500 targets.
func BenchmarkTargets(b *testing.B) {
	post(b, singlePath, "application/json", tokens(500))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/notification")
}

func BenchmarkBatchOf500(b *testing.B) {
	for name, c := range map[string]struct{ media, body string }{
		"lines": {"application/x-ndjson", strings.Repeat(typical+"\n", 500)},
		"array": {"application/json", "[" + strings.Repeat(typical+",", 499) + typical + "]"},
	} {
		b.Run(name, func(b *testing.B) {
			post(b, batchPath, c.media, c.body)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/notification")
		})
	}
}
