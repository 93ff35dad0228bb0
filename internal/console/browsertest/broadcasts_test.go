// SPDX-License-Identifier: Apache-2.0

package browsertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/chromedp/chromedp"
)

// testBroadcasts creates a broadcast, uploads its audience, runs, pauses, resumes and recalls it.
func (b *browser) testBroadcasts() {
	b.t.Helper()
	b.open("/console/broadcasts")
	b.click("#new")
	b.wait("#broadcast-form")
	for input, text := range map[string]string{
		"name": "Spring sale", "title": "Hello {{name|there}}", "body": "Everything <b>must</b> go.", "fcm_title": "Hello Android", "language": "en",
		"more": `{"languages": {"de": {"title": "Hallo {{name|du}}"}}}`, "per_minute": "6000", "recall_title": "We are sorry",
	} {
		b.enter(fmt.Sprintf("[name=%s]", input), text)
	}
	b.run(chromedp.SetValue("select[name=platform]", "fcm"))
	b.until(`document.querySelectorAll('#previews [data-language=de]').length === 3 && document.querySelector('#previews').textContent.includes('Hallo du')`, "there are previews in German")
	if shown := eval[string](b, "document.querySelector('#previews').innerHTML"); strings.Contains(shown, "<b>must") || !strings.Contains(shown, "Hello Android") {
		b.t.Error("the preview shows text as HTML, or not that of the platform")
	}
	b.shoot(page{name: "broadcast-form"})
	b.click("#create")
	b.wait("#upload")

	var lines strings.Builder
	lines.WriteString("token,key\n,without-token\ndevice:dead,unregistered\n")
	for i := range 1500 {
		fmt.Fprintf(&lines, "device-%d:token,user-%d\n", i, i)
	}
	file := filepath.Join(b.t.TempDir(), "audience.csv")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.run(chromedp.SetUploadFiles("#upload input[type=file]", []string{file}))
	b.click("#upload button")
	b.wait("#do-start")
	b.until("document.querySelector('#invalid').textContent.includes('InvalidTarget')", "the line that cannot be sent is listed")
	b.shoot(page{name: "broadcast-ready"})

	state := func(want string) string {
		return fmt.Sprintf("document.querySelector('#state')?.dataset.state === %q", want)
	}
	b.click("#do-start")
	b.until(state("running")+" && Number(document.querySelector('#counts-Message .accepted').textContent.replace(',', '')) > 100", "it runs")
	b.click("#do-pause")
	b.until(state("paused")+" && document.querySelector('#counts-Message').textContent.includes('UNREGISTERED')", "it is paused")
	b.shoot(page{name: "broadcast", complete: "document.querySelector('#connection').dataset.state === 'live' && document.querySelectorAll('.plot canvas').length === 1"})
	b.click("#do-resume")
	b.until(state("running"), "it runs again")
	b.click("#do-recall")
	b.wait("#confirm-recall")
	if devices := eval[string](b, "document.querySelector('#recall-devices').textContent"); devices == "0" {
		b.t.Error("the recall would reach no device")
	}
	b.shoot(page{name: "broadcast-recall"})
	b.click("#confirm-recall")
	b.until(state("recalled"), "it is recalled")
	b.until("document.querySelector('#counts-Recall .accepted').textContent !== '0'", "devices have got the recall message")
	b.open("/console/broadcasts")
	b.until("document.querySelector('#list').textContent.includes('recalled')", "the list has the broadcast")
	b.shoot(page{name: "broadcasts"})
}
