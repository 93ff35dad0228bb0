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
	b.testVariants()
	b.shoot(page{name: "broadcast-form"})
	b.click("#create")
	b.wait("#upload")
	b.testEdit()

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

	b.click("#list a")
	b.wait("#do-delete")
	b.click("#do-delete")
	b.wait("#confirm-delete")
	b.shoot(page{name: "broadcast-delete"})
	b.click("#confirm-delete")
	b.until("document.querySelector('#new') && !document.querySelector('#list')", "the broadcast is deleted")
}

// choose selects an option.
func (b *browser) choose(selector, value string) {
	b.t.Helper()
	b.run(chromedp.Evaluate(fmt.Sprintf("{ const field = document.querySelector(%q); field.value = %q; field.dispatchEvent(new Event('change', {bubbles: true})); }", selector, value), nil))
}

// waitSettled waits until htmx has added an element and listens to its events, which is a moment later.
func (b *browser) waitSettled(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%q) && !document.querySelector('.htmx-added, .htmx-settling')", selector), selector+" is ready")
}

// testVariants adds a variant and a language to the form, and looks at the previews of some of them.
func (b *browser) testVariants() {
	b.t.Helper()
	b.click("#add-variant")
	b.waitSettled("[name=v1_title]")
	if title := eval[string](b, "document.querySelector('[name=v1_title]').value"); title != "Hello {{name|there}}" {
		b.t.Errorf("the new variant has the title %q", title)
	}
	b.until("document.activeElement.name === 'v1_title'", "the new variant has the focus")
	b.enter("[name=v1_title]", "Sale, {{name|today}}")
	b.enter("[name=new_language]", "fr")
	b.click("#add-language")
	b.waitSettled("[name=v1_l0_title]")
	b.enter("[name=l0_title]", "Bonjour {{name|}}")
	b.enter("[name=v1_l0_title]", "Soldes")
	b.until("document.querySelectorAll('#previews article').length === 18 && document.querySelector('#previews').textContent.includes('Soldes')", "there is a preview for each platform, variant and language")
	b.run(chromedp.Focus("#show_language"))
	b.choose("#show_language", "fr")
	b.until("document.querySelectorAll('#previews article').length === 6 && document.querySelectorAll('#previews [data-language=fr]').length === 6", "the previews are those in French")
	if focus := eval[string](b, "document.activeElement.id"); focus != "show_language" {
		b.t.Errorf("the focus is at %q", focus)
	}
}

// testEdit edits a broadcast that somebody else changes at the same time.
func (b *browser) testEdit() {
	b.t.Helper()
	b.click("#do-edit")
	b.wait("#save")
	b.run(chromedp.Evaluate(`{
		const form = document.querySelector('#broadcast-form'), other = new URLSearchParams(new FormData(form));
		other.set('name', 'Summer sale');
		fetch(form.action, {method: 'POST', body: other}).then((r) => { window.saved = r.ok; });
	}`, nil))
	b.until("window.saved", "somebody else has saved the form")
	b.enter("[name=name]", "Winter sale")
	b.choose("#show_platform", "fcm")
	b.click("#save")
	b.wait("#overwrite")
	if name := eval[string](b, "document.querySelector('[name=name]').value"); name != "Winter sale" {
		b.t.Errorf("the form has the name %q", name)
	}
	b.shoot(page{name: "broadcast-edit"})
	b.click("#overwrite")
	b.wait("#upload")
	b.until("document.querySelector('h1').textContent === 'Winter sale'", "the broadcast has the new name")
	b.click("#do-edit")
	b.wait("#save")
	b.enter("[name=name]", "Spring sale")
	b.click("#save")
	b.until("document.querySelector('#upload') && document.querySelector('h1').textContent === 'Spring sale'", "the broadcast has its name again")
}
