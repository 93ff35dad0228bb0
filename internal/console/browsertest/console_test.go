// SPDX-License-Identifier: Apache-2.0

// Package browsertest tests the console of gateway dev in headless Chromium. It is a module of its
// own, so that its dependencies are not the product's.
package browsertest

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/internal/testwait"
)

// axe is axe-core (https://github.com/dequelabs/axe-core), copied without changes.
//
//go:embed testdata/axe.min.js
var axe string

// screenshots is the environment variable with the folder for the screenshots.
const screenshots = "CONSOLE_SCREENSHOTS"

// browser is a page in headless Chromium.
type browser struct {
	t       *testing.T
	ctx     context.Context
	base    string // URL of the admin listener
	host    string
	shots   string
	mu      sync.Mutex
	errors  []string // of the console of the browser, and requests to other hosts
	allowed string   // part of an error that is expected
}

// buildGateway builds the gateway in a folder.
func buildGateway(t *testing.T, dir string) (program string) {
	t.Helper()
	program = filepath.Join(dir, "gateway")
	build := exec.Command("go", "build", "-o", program, "./cmd/gateway")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// run runs the gateway in a folder until the end of the test.
func run(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	gateway := exec.Command(program, args...)
	gateway.Dir, gateway.Stderr = dir, os.Stderr
	gateway.Env = append(os.Environ(), "TMPDIR="+dir)
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = gateway.Process.Signal(syscall.SIGTERM)
		if err := gateway.Wait(); err != nil {
			t.Errorf("gateway %s: %v", args[0], err)
		}
	})
}

// startDev builds and starts gateway dev and returns the URL of its admin listener.
func startDev(t *testing.T) (adminURL string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "ready.json")
	run(t, dir, buildGateway(t, dir), "dev", "--listen", "127.0.0.1:0", "--ready-file", file)
	var ready struct {
		AdminURL string `json:"admin_url"`
	}
	testwait.Until(t, func() bool {
		text, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(text, &ready) == nil
	}, "gateway dev is ready")
	return ready.AdminURL
}

// newBrowser starts Chromium with an empty profile.
func newBrowser(t *testing.T, base string, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	testtool.Require(t, "chromium")
	parsed, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, base: base, host: parsed.Host, shots: os.Getenv(screenshots)}
	if b.shots == "" {
		b.shots = t.TempDir()
	} else if err := os.MkdirAll(b.shots, 0o755); err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true),
	)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), append(options, more...)...)
	t.Cleanup(cancel)
	b.ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	chromedp.ListenTarget(b.ctx, b.observe)
	b.run(network.Enable(), log.Enable(), runtime.Enable())
	return b
}

// observe records errors of the page, and requests to another host.
func (b *browser) observe(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	add := func(text string) {
		if b.allowed == "" || !strings.Contains(text, b.allowed) {
			b.errors = append(b.errors, text)
		}
	}
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		add("exception: " + e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
			add(fmt.Sprintf("console.%s: %s", e.Type, e.Args[0].Value))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning {
			add(fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Scheme != "data" && u.Host != b.host {
			add("request to another host: " + e.Request.URL)
		}
	}
}

// check fails the test if the page had an error.
func (b *browser) check() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		b.t.Error(e)
	}
	b.errors = nil
}

// run runs actions with a bound on their time.
func (b *browser) run(actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, testwait.Bound)
	defer cancel()
	if err := chromedp.Run(b.firstContext(ctx), actions...); err != nil {
		b.t.Helper()
		b.t.Fatalf("%v; errors of the page: %q", err, b.errors)
	}
}

// click clicks an element. Unlike a click at a position, it does not depend on the layout.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.run(chromedp.Evaluate(fmt.Sprintf("document.querySelector(%q).click()", selector), nil))
}

// enter replaces the value of a field, as a user does.
func (b *browser) enter(selector, text string) {
	b.t.Helper()
	b.run(chromedp.Evaluate(fmt.Sprintf("{ const field = document.querySelector(%q); field.value = %q; field.dispatchEvent(new Event('input', {bubbles: true})); }", selector, text), nil))
}

// wait waits until an element exists.
func (b *browser) wait(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%q)", selector), "there is an element "+selector)
}

// firstContext returns b.ctx for the first run: it starts the browser, which must outlive the bound.
func (b *browser) firstContext(bounded context.Context) context.Context {
	if chromedp.FromContext(b.ctx).Target == nil {
		return b.ctx
	}
	return bounded
}

// eval returns the value of a JavaScript expression.
func eval[T any](b *browser, expression string) (value T) {
	b.t.Helper()
	b.run(chromedp.Evaluate(expression, &value))
	return value
}

// until waits until a JavaScript expression is true.
func (b *browser) until(expression, what string) {
	b.t.Helper()
	testwait.Until(b, func() bool {
		ctx, cancel := context.WithTimeout(b.ctx, testwait.Bound)
		defer cancel()
		var isTrue bool
		err := chromedp.Run(ctx, chromedp.Evaluate("Boolean("+expression+")", &isTrue))
		return err == nil && isTrue // a script fails if the page is left while it runs
	}, what)
}

// Helper and Fatalf make a failed wait report what the page shows.
func (b *browser) Helper() { b.t.Helper() }

// Fatalf fails the test.
func (b *browser) Fatalf(format string, args ...any) {
	b.t.Helper()
	var url, text string
	_ = chromedp.Run(b.ctx, chromedp.Location(&url), chromedp.Text("body", &text, chromedp.ByQuery))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.Fatalf(format+"; errors %q; %s shows\n%s", append(args, b.errors, url, text)...)
}

// page is a page of the console with what shows that it is complete.
type page struct{ name, path, complete string }

var sizes = []struct {
	name          string
	width, height int64
}{{"wide", 1360, 900}, {"phone", 390, 844}}

// shoot makes screenshots of the current page in both themes at two widths, and checks its accessibility
// in each.
func (b *browser) shoot(p page) {
	b.t.Helper()
	for _, size := range sizes {
		for _, theme := range []string{"light", "dark"} {
			var image []byte
			b.run(
				emulation.SetDeviceMetricsOverride(size.width, size.height, 1, size.name == "phone"),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}, {Name: "prefers-reduced-motion", Value: "reduce"}}),
			)
			if p.complete != "" {
				b.until(p.complete, p.name+" is complete")
			}
			b.until("document.fonts.status === 'loaded' && !document.querySelector('.htmx-request')", "nothing loads")
			if wide := eval[bool](b, "document.documentElement.scrollWidth > innerWidth"); wide {
				b.t.Errorf("%s %s: the page is wider than the window", p.name, size.name)
			}
			b.run(chromedp.FullScreenshot(&image, 100))
			name := fmt.Sprintf("%s-%s-%s.png", p.name, size.name, theme)
			if err := os.WriteFile(filepath.Join(b.shots, name), image, 0o644); err != nil {
				b.t.Fatal(err)
			}
			b.audit(name)
		}
	}
	b.run(emulation.SetDeviceMetricsOverride(sizes[0].width, sizes[0].height, 1, false), emulation.SetEmulatedMedia())
	b.check()
}

// audit reports the serious and critical issues that axe-core finds.
func (b *browser) audit(name string) {
	b.t.Helper()
	type issue struct {
		ID, Impact, Help string
		Nodes            []struct{ HTML, FailureSummary string }
	}
	var found []issue
	b.run(chromedp.Evaluate("window.axe === undefined", nil), chromedp.Evaluate(axe+";0", nil),
		chromedp.Evaluate(`axe.run().then(r => r.violations)`, &found, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	for _, i := range found {
		if i.Impact == "serious" || i.Impact == "critical" {
			for _, n := range i.Nodes {
				b.t.Errorf("%s: %s (%s): %s\n%s", name, i.Help, i.Impact, n.HTML, n.FailureSummary)
			}
		}
	}
}

// open opens a page.
func (b *browser) open(path string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.base + path))
}

// testControls uses the switch of the theme and the pause of the live page, with the keyboard.
func (b *browser) testControls() {
	b.t.Helper()
	b.run(chromedp.Focus("#theme"), chromedp.KeyEvent(kb.Enter))
	b.until("document.documentElement.dataset.theme === 'dark'", "the theme is dark")
	b.open("/console/")
	b.until("document.documentElement.dataset.theme === 'dark'", "the theme is still dark")
	b.run(chromedp.Evaluate("document.cookie = 'sluice_theme=; path=/console/; max-age=0'", nil))
	b.until("document.querySelector('#connection').dataset.state === 'live'", "the page is live")
	b.run(chromedp.Focus("#pause"), chromedp.KeyEvent(kb.Enter))
	b.until("document.querySelector('#connection').dataset.state === 'paused'", "the page is paused")
	b.run(chromedp.KeyEvent(kb.Enter))
	b.until("document.querySelector('#connection').dataset.state === 'live'", "the page is live again")
	b.check()
}

const deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

func TestConsole(t *testing.T) {
	testtool.Require(t, "chromium")
	b := newBrowser(t, startDev(t))
	started := time.Now()

	b.open("/console/")
	b.shoot(page{name: "sign-in"})
	b.click("button[autofocus]")
	b.wait("#tiles")

	b.open("/console/faults")
	b.click("button[value=start]")
	b.wait("button[value=stop]")
	b.open("/console/")
	b.until("document.querySelectorAll('[data-member=member][data-breaker=closed]').length >= 12", "both pools are connected")
	b.until("Number(document.querySelector('#tiles dd').textContent.replace('/s', '')) > 10", "the throughput is shown")

	// An endpoint that is used breaks under load and is replaced.
	broken := eval[string](b, "document.querySelector('[data-member=member]').dataset.endpoint")
	b.open("/console/faults")
	b.run(chromedp.Evaluate(fmt.Sprintf("for (const o of document.querySelectorAll('select[name=endpoint] option')) o.selected = o.textContent.includes(%q)", broken), nil))
	b.click("button[value=break]")
	b.wait("ul.active")
	b.shoot(page{name: "faults"})
	b.open("/console/")
	b.until(fmt.Sprintf("document.querySelector('[data-endpoint=%q][data-breaker=open]')", broken), "the breaker of the endpoint is open")
	b.until(fmt.Sprintf("document.querySelector('[data-endpoint=%q][data-member=spare]')", broken), "another endpoint has replaced it")
	b.until("document.querySelector('.service[data-state=degraded]') && [...document.querySelectorAll('.service tr[data-member=member]')].length >= 12", "the pool is complete again")
	b.shoot(page{name: "live", complete: "document.querySelector('#connection').dataset.state === 'live' && document.querySelectorAll('.plot canvas').length === 2 && JSON.parse(sessionStorage.getItem('points /console/live/events')).length >= 8"})
	b.testControls()

	// A test is sent and found.
	b.open("/console/send?platform=apns")
	b.enter("textarea[name=target]", deviceToken)
	b.enter("input[name=title]", "Your order has shipped")
	b.enter("textarea[name=body]", "It arrives <b>tomorrow</b>.")
	b.until(`document.querySelector('#preview').textContent.includes('tomorrow')`, "the preview has the text")
	if shown := eval[string](b, "document.querySelector('#preview').innerHTML"); strings.Contains(shown, deviceToken) || strings.Contains(shown, "<b>tomorrow") {
		t.Error("the preview shows the whole token, or text as HTML")
	}
	b.click("#send-button")
	b.wait("#sent-result")
	b.until("document.querySelector('#sent-result').dataset.status === 'accepted'", "the test is accepted")
	b.shoot(page{name: "send"})
	id := eval[string](b, "document.querySelector('#sent-id').textContent")
	b.enter("textarea[name=target]", "dead0000"+deviceToken[8:])
	b.click("#send-button")
	b.until("document.querySelector('#sent-result').dataset.status === 'unregistered'", "the token is unregistered")
	testwait.Until(b, func() bool { // the history has it a moment later
		b.open("/console/notifications?status=unregistered")
		return eval[bool](b, "Boolean(document.querySelector('#list'))")
	}, "the list has the notification")
	b.open("/console/notifications")
	b.wait("#list")
	b.wait("#stats")
	b.shoot(page{name: "search"})
	b.run(chromedp.SendKeys("input[name=id]", id+"\r"))
	b.wait("#notification")
	if got := eval[string](b, "document.querySelector('#notification').dataset.status"); got != "accepted" {
		t.Errorf("status %q", got)
	}
	b.shoot(page{name: "notifications"})

	part := time.Now()
	b.testBroadcasts()
	t.Logf("broadcasts took %v", time.Since(part))

	b.open("/console/help/")
	b.wait("main h1")
	b.check()

	b.open("/console/unregistered")
	b.wait("table.list")
	b.shoot(page{name: "unregistered"})

	b.open("/console/faults")
	b.click("button[value=recover]")
	b.until("!document.querySelector('ul.active')", "there is no fault")
	b.check()
	t.Logf("took %v", time.Since(started))
}
