// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/push"
)

func BenchmarkRender(b *testing.B) {
	r := &audience.Recipient{Platform: push.APNs, Target: push.Target{Token: iosToken}, Language: "de-AT",
		Variables: variables("name", "Zoë", "amount", "1.50", "city", "Linz")}
	for _, bench := range []struct{ name, message string }{
		{"Static", `{"title":"Hello","body":"Good morning","languages":{"de":{"title":"Hallo"}}}`},
		{"Texts", `{"title":"Hello {{name|there}}","body":"You have {{amount}} in {{city}}","languages":{"de":{"title":"Hallo {{name|du}}"}}}`},
		{"Payload", `{"apns":{"payload":{"aps":{"alert":{"title":"Hello {{name|there}}","body":"You have {{amount}} in {{city}}"}}}},"data":{"city":"{{city}}"},"languages":{"de":{}}}`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c, n := compile(b, `{"language":"en","variants":[{"name":"a","weight":1,"message":`+bench.message+`},{"name":"b","weight":1,"message":`+bench.message+`}]}`), new(push.Notification)
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Render(r, c.Variant("broadcast", r), n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	for _, format := range []audience.Format{audience.NDJSON, audience.CSV} {
		b.Run(string(format), func(b *testing.B) {
			const lines = 1000
			var text strings.Builder
			if format == audience.CSV {
				text.WriteString("platform,token,language,time_zone,key,variables.name,variables.amount\n")
			}
			for i := range lines {
				if format == audience.CSV {
					fmt.Fprintf(&text, "apns,%064x,de-AT,Europe/Vienna,user-%d,Zoë,1.50\n", i, i)
				} else {
					fmt.Fprintf(&text, `{"platform":"apns","token":"%064x","language":"de-AT","time_zone":"Europe/Vienna","key":"user-%d","variables":{"name":"Zoë","amount":1.50}}`+"\n", i, i)
				}
			}
			b.ReportAllocs()
			b.SetBytes(int64(text.Len() / lines))
			left, r, to := 0, (*audience.Reader)(nil), new(audience.Recipient)
			for b.Loop() {
				if left == 0 {
					left, r = lines, audience.NewReader(strings.NewReader(text.String()), config(format))
				}
				if _, err := r.Next(to); err != nil && err != io.EOF {
					b.Fatal(err)
				}
				left--
			}
		})
	}
}

func BenchmarkDuplicates(b *testing.B) {
	d, r := audience.NewDuplicates(b.TempDir()), device(1)
	b.ReportAllocs()
	for line := uint32(1); b.Loop(); line++ {
		if err := d.Add(line, r); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDuplicatesOfTenMillion reports the memory that is in use before and allocated by Find.
func BenchmarkDuplicatesOfTenMillion(b *testing.B) {
	const lines = 10_000_000
	for b.Loop() {
		d := audience.NewDuplicates(b.TempDir())
		for i := range lines {
			if err := d.Add(uint32(i+1), device(i%(lines-lines/10))); err != nil {
				b.Fatal(err)
			}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		found, err := d.Find()
		if err != nil {
			b.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if found.GetCardinality() != lines/10 {
			b.Errorf("%d lines, want %d", found.GetCardinality(), lines/10)
		}
		b.ReportMetric(float64(before.HeapAlloc>>10), "KiB-heap")
		b.ReportMetric(float64((after.TotalAlloc-before.TotalAlloc)>>10), "KiB-find")
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSketch(b *testing.B) {
	s, r := audience.NewSketch(), device(1)
	b.ReportAllocs()
	for b.Loop() {
		s.Add(r)
	}
}
