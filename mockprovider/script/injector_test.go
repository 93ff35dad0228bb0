// SPDX-License-Identifier: Apache-2.0

package script_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// service is a script.Service whose device token is the path of the request.
type service struct{}

func (service) Find(r *h2.Request) { r.Token = r.Path }

func (service) Respond(*h2.Request) h2.Response { return h2.Response{Status: 200, Accepted: true} }

func (service) RespondFault(_ *h2.Request, f *script.Fault) h2.Response {
	resp := h2.Response{Status: f.Status, Reason: f.Reason}
	resp.AddRetryAfter(f.RetryAfter)
	return resp
}

// wire is a script.Wire that records its calls.
type wire struct{ calls []string }

func (w *wire) Freeze(on bool)      { w.calls = append(w.calls, fmt.Sprintf("freeze %t", on)) }
func (w *wire) SetMaxStreams(n int) { w.calls = append(w.calls, fmt.Sprintf("streams %d", n)) }
func (w *wire) GoAway(g h2.GoAway) {
	w.calls = append(w.calls, fmt.Sprintf("goaway %d %v", g.LastOffset, g.Code))
}
func (w *wire) Reset(processed float64) {
	w.calls = append(w.calls, fmt.Sprintf("reset %v", processed))
}

// apns0 is the first endpoint of APNs.
var apns0 = &script.Endpoint{Service: script.APNs, Addr: "127.0.0.1:2197"}

func newInjector(t *testing.T, faults ...script.Fault) *script.Injector {
	t.Helper()
	i := script.NewInjector("none", 1, func(string, string, bool, bool) {})
	if err := i.SetScript(script.Script{Faults: faults}); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestFaultsDecideAboutRequests(t *testing.T) {
	for name, c := range map[string]struct {
		fault script.Fault
		want  string // of the first three requests: status, processed, fault, effect
	}{
		"none":                {script.Fault{Service: script.FCM, Status: 500}, "[200 true] [200 true] [200 true]"},
		"status":              {script.Fault{Status: 500, Times: 1}, "[500 true status] [200 true] [200 true]"},
		"body":                {script.Fault{Status: 403, Body: new("<html>"), Times: 1}, "[403 true body] [200 true] [200 true]"},
		"token prefix":        {script.Fault{Token: "ab*", Status: 500}, "[500 true status] [500 true status] [500 true status]"},
		"token in upper case": {script.Fault{Token: "AB*", Status: 500}, "[500 true status] [500 true status] [500 true status]"},
		"other token":         {script.Fault{Token: "a", Status: 500}, "[200 true] [200 true] [200 true]"},
		"endpoint number":     {script.Fault{Endpoint: "0", Status: 500, Times: 1}, "[500 true status] [200 true] [200 true]"},
		"endpoint address":    {script.Fault{Endpoint: apns0.Addr, Status: 500, Times: 1}, "[500 true status] [200 true] [200 true]"},
		"other endpoint":      {script.Fault{Endpoint: "1", Status: 500}, "[200 true] [200 true] [200 true]"},
		"delay":               {script.Fault{Delay: time.Second, Times: 1}, "[200 true delay 1s] [200 true] [200 true]"},
		"service rate":        {script.Fault{ServiceRate: 1}, "[200 true service_rate 1s] [200 true service_rate 2s] [200 true service_rate 3s]"},
		"dropped response":    {script.Fault{DropResponse: true, Times: 1}, "[200 true drop_response silent] [200 true] [200 true]"},
		"stream reset":        {script.Fault{RST: "REFUSED_STREAM", Times: 1}, "[0 false rst REFUSED_STREAM REFUSED_STREAM] [200 true] [200 true]"},
		"stall after 2":       {script.Fault{Stall: &script.Stall{After: 2}}, "[200 true] [200 true] [0 false stall silent]"},
		"goaway every 2":      {script.Fault{GoAway: &script.GoAway{Every: 2, LastOffset: -1}}, "[200 true] [200 true goaway goaway -1] [200 true]"},
		"reset every 3":       {script.Fault{Reset: &script.Reset{Every: 3}}, "[200 true] [200 true] [0 false reset reset 0]"},
		"reset, processed":    {script.Fault{Reset: &script.Reset{Every: 3, Processed: 0.5}}, "[200 true] [200 true] [200 true reset reset 0.5]"},
		"immediate reset":     {script.Fault{Reset: &script.Reset{Processed: 0.5}, Delay: time.Second}, "[200 true delay 1s] [200 true delay 1s] [200 true delay 1s]"},
		"immediate goaway":    {script.Fault{GoAway: &script.GoAway{}, Status: 503}, "[503 true status] [503 true status] [503 true status]"},
		"quota":               {script.Fault{Quota: &script.Quota{Scope: "device", Limit: 2, Per: time.Hour}}, "[200 true] [200 true] [429 true quota]"},
		"quota of topics":     {script.Fault{Quota: &script.Quota{Scope: "topic", Limit: 1, Per: time.Hour}}, "[200 true] [200 true] [200 true]"},
		"not yet":             {script.Fault{From: time.Hour, Status: 500}, "[200 true] [200 true] [200 true]"},
		"without idle time":   {script.Fault{AfterIdle: time.Hour, Status: 500}, "[200 true] [200 true] [200 true]"},
		"status and goaway":   {script.Fault{Status: 503, GoAway: &script.GoAway{Every: 3}}, "[200 true] [200 true] [503 true goaway goaway 0]"},
		"connection refused":  {script.Fault{Refuse: true}, "[200 true] [200 true] [200 true]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			i := newInjector(t, c.fault)
			conn := script.NewConn(apns0, 1, &wire{})
			var got string
			for n := range 3 {
				d := i.Decide(conn, service{}, &h2.Request{Path: "abc"})
				if n > 0 {
					got += " "
				}
				got += describe(d)
			}
			if got != c.want {
				t.Errorf("%s: got %s, want %s", name, got, c.want)
			}
		})
	}
}

func describe(d h2.Decision) string {
	text := fmt.Sprintf("%d %t", d.Response.Status, d.Processed)
	if d.Fault != "" {
		text += " " + d.Fault
	}
	switch {
	case d.Silent:
		text += " silent"
	case d.RST:
		text += " " + d.Code.String()
	case d.Reset:
		text += fmt.Sprintf(" reset %v", d.ProcessedShare)
	case d.GoAway != nil:
		text += fmt.Sprintf(" goaway %d", d.GoAway.LastOffset)
	case d.Delay > 0:
		text += " " + d.Delay.String()
	}
	return "[" + text + "]"
}

func TestBodyReplacesTheFormatOfTheService(t *testing.T) {
	for _, c := range []struct {
		fault  script.Fault
		status int
		header string
	}{
		{script.Fault{Body: new("<html>blocked")}, 200, "content-type: text/html; charset=utf-8"},
		{script.Fault{Body: new(" {}"), Status: 404}, 404, "content-type: application/json"},
		{script.Fault{Body: new("blocked"), Status: 410, ContentType: "text/x"}, 410, "content-type: text/x"},
		{script.Fault{Body: new(""), Status: 503, RetryAfter: time.Minute}, 503, "retry-after: 60"},
		{script.Fault{Body: new(""), Status: 307}, 307, "location: https://portal.example/login"},
		{script.Fault{Body: new(""), Status: 407}, 407, "proxy-authenticate: Basic"},
	} {
		d := newInjector(t, c.fault).Decide(script.NewConn(apns0, 1, &wire{}), service{}, &h2.Request{})
		if len(d.Response.Header) != 1 {
			t.Fatalf("%d: %d header fields, want 1", c.status, len(d.Response.Header))
		}
		header := d.Response.Header[0].Name + ": " + d.Response.Header[0].Value
		if d.Response.Status != c.status || string(d.Response.Body) != *c.fault.Body || header != c.header || d.Response.Accepted {
			t.Errorf("got %+v", d.Response)
		}
	}
}

func TestFirstFaultWithAnEffectApplies(t *testing.T) {
	i := newInjector(t, script.Fault{Status: 500, Times: 1}, script.Fault{Status: 503})
	conn := script.NewConn(apns0, 1, &wire{})
	for _, want := range []int{500, 503} {
		if d := i.Decide(conn, service{}, &h2.Request{}); d.Response.Status != want {
			t.Errorf("got %d, want %d", d.Response.Status, want)
		}
	}
}

func TestQuotaSendsRetryAfterInWholeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var checks []string
		i := script.NewInjector("none", 1, func(service, scope string, admitted, early bool) {
			checks = append(checks, fmt.Sprintln(service, scope, admitted, early))
		})
		fault := script.Fault{Quota: &script.Quota{Scope: "project", Limit: 1, Per: 1500 * time.Millisecond, Tell: true}}
		if err := i.SetScript(script.Script{Faults: []script.Fault{fault}}); err != nil {
			t.Fatal(err)
		}
		conn := script.NewConn(apns0, 1, &wire{})
		for n, want := range []string{"", "2", "2"} {
			r := h2.Request{}
			if r.Header = i.Decide(conn, service{}, &r).Response.Header; r.Get("retry-after") != want {
				t.Errorf("response %d: retry-after %q, want %q", n, r.Get("retry-after"), want)
			}
		}
		if want := []string{"apns project true false\n", "apns project false false\n", "apns project false true\n"}; !slices.Equal(checks, want) {
			t.Errorf("checks %q, want %q", checks, want)
		}
	})
}

func TestFaultsOfConnectionsAreApplied(t *testing.T) {
	i := newInjector(t, script.Fault{Blackhole: true}, script.Fault{MaxStreams: 3, Endpoint: "0"}, script.Fault{MaxStreams: 5},
		script.Fault{GoAway: &script.GoAway{LastOffset: -2, Code: "INTERNAL_ERROR"}, Times: 1}, script.Fault{Reset: &script.Reset{Processed: 0.5}})
	program := i.Program()
	begun := program.Begun()
	for n, want := range [][]string{
		{"freeze true", "streams 3", "goaway -2 INTERNAL_ERROR", "reset 0.5"},
		{"freeze true", "streams 3", "reset 0.5"}, // the GOAWAY has been used up
	} {
		w := &wire{}
		program.Apply(script.NewConn(apns0, uint64(n), w), begun)
		if !slices.Equal(w.calls, want) {
			t.Errorf("connection %d: got %q, want %q", n, w.calls, want)
		}
	}
	if again := program.Begun(); len(again) != 0 {
		t.Errorf("%d rules have begun twice", len(again))
	}
	if program.Refuses(apns0) {
		t.Error("the endpoint refuses connections without a fault")
	}
}

func TestProgramNamesItsNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		i := newInjector(t, script.Fault{Refuse: true, From: time.Minute, Until: time.Hour}, script.Fault{Status: 500, Until: 2 * time.Minute})
		program := i.Program()
		for _, want := range []time.Duration{time.Minute, 2 * time.Minute, time.Hour} {
			at, ok := program.NextChange()
			if !ok || at.Sub(start) != want {
				t.Errorf("next change after %v, %v; want %v", at.Sub(start), ok, want)
			}
			time.Sleep(time.Until(at))
			if refuses := program.Refuses(apns0); refuses != (want < time.Hour) {
				t.Errorf("after %v: refuses %v", want, refuses)
			}
		}
		if at, ok := program.NextChange(); ok {
			t.Errorf("one more change at %v", at)
		}
	})
}

func TestStalledConnectionIsSilentAfterItsRequests(t *testing.T) {
	i := newInjector(t, script.Fault{Stall: &script.Stall{After: 1}})
	conn := script.NewConn(apns0, 1, &wire{})
	for _, want := range []bool{false, true} {
		if got := i.Silent(conn); got != want {
			t.Errorf("silent %v, want %v", got, want)
		}
		i.Decide(conn, service{}, &h2.Request{})
	}
}

func TestClockOfAServiceIsShifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInjector(t, script.Fault{Service: script.OAuth, Clock: -time.Hour})
		for service, want := range map[string]time.Duration{script.OAuth: -time.Hour, script.APNs: 0} {
			if got := time.Until(i.Now(service)); got != want {
				t.Errorf("%s: shifted by %v, want %v", service, got, want)
			}
		}
	})
}

func TestHandshakeDelaysAddUp(t *testing.T) {
	conn := script.NewConn(apns0, 1, &wire{})
	i := newInjector(t, script.Fault{AcceptDelay: time.Second, TLSDelay: 2 * time.Second})
	if accept, tls := i.HandshakeDelays(conn); accept != time.Second || tls != 2*time.Second {
		t.Errorf("got %v and %v", accept, tls)
	}
	far := script.NewInjector("far", 1, nil)
	if accept, tls := far.HandshakeDelays(conn); accept != 0 || tls < 200*time.Millisecond {
		t.Errorf("with a latency profile: got %v and %v", accept, tls)
	}
}

func TestInvalidScriptIsNotSet(t *testing.T) {
	i := newInjector(t, script.Fault{Status: 500})
	if err := i.SetScript(script.Script{Faults: []script.Fault{{Status: 503}, {}}}); err == nil {
		t.Error("no error")
	}
	if s := i.Script(); len(s.Faults) != 1 || s.Faults[0].Status != 500 {
		t.Errorf("the script is now %+v", s)
	}
}
