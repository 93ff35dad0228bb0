// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// start starts a mock with many streams and those faults.
func start(t testing.TB, faults ...mockprovider.Fault) *mockprovider.Mock {
	t.Helper()
	return mockprovider.Start(t, mockprovider.Config{
		Streams: mockprovider.Streams{Start: 1000}, Script: mockprovider.Script{Faults: faults}, Seed: 1,
	})
}

// eventually polls a condition, such as the effect of a script on connections, for up to a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: has not happened", what)
		}
	}
}

// entries returns the ledger's entries of APNs as "fault status accepted answered".
func entries(m *mockprovider.Mock) []string {
	var all []string
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %d %t %t", e.Fault, e.Status, e.Accepted, e.Answered)))
	}
	return all
}

func wantEntries(t testing.TB, m *mockprovider.Mock, want ...string) {
	t.Helper()
	if got := entries(m); !slices.Equal(got, want) {
		t.Errorf("the ledger has %q, want %q", got, want)
	}
}

func TestStatusFaultAppliesToItsEndpointTokenAndTimes(t *testing.T) {
	m := start(t, mockprovider.Fault{
		Service: "apns", Endpoint: "1", Token: "00fc*", Times: 2, Status: 503, Reason: "Shutdown", RetryAfter: 3 * time.Second,
	})
	other, affected := open(t, m, m.APNsAddrs()[0]), open(t, m, m.APNsAddrs()[1])
	var got []int
	for _, step := range []struct {
		on    *frameClient
		token string
	}{{other, deviceToken}, {affected, "aa" + deviceToken}, {affected, deviceToken}, {affected, deviceToken}, {affected, deviceToken}} {
		step.on.push(step.token)
		r := step.on.Response()
		got = append(got, r.Status)
		if r.Status == 503 && (r.Body != `{"reason":"Shutdown"}` || r.Fields["retry-after"] != "3") {
			t.Errorf("got %+v", r)
		}
	}
	if fmt.Sprint(got) != "[200 200 503 503 200]" {
		t.Errorf("got %v", got)
	}
}

func TestEndpointIsNamedByItsAddress(t *testing.T) {
	m := start(t)
	setScript(t, m, mockprovider.Fault{Endpoint: m.APNsAddrs()[2].String(), Status: 500})
	for i, addr := range m.APNsAddrs()[:3] {
		c := open(t, m, addr)
		c.push(deviceToken)
		if r := c.Response(); (r.Status == 500) != (i == 2) {
			t.Errorf("endpoint %d answered %d", i, r.Status)
		}
	}
}

func TestDelayedResponseIsOvertaken(t *testing.T) {
	m := start(t, mockprovider.Fault{Token: "aa*", Delay: time.Hour}, mockprovider.Fault{Token: "bb*", Delay: 30 * time.Millisecond})
	c := open(t, m, m.APNsAddrs()[0])
	c.push("aa" + deviceToken)
	for _, token := range []string{deviceToken, "bb" + deviceToken} {
		id := c.push(token)
		if r := c.Response(); r.Stream != id || r.Status != 200 {
			t.Errorf("got %+v", r)
		}
	}
	wantEntries(t, m, "200 true true", "delay 200 true true")
}

func TestRequestWithDroppedResponseIsAccepted(t *testing.T) {
	m := start(t, mockprovider.Fault{DropResponse: true, Times: 1})
	c := open(t, m, m.APNsAddrs()[0])
	dropped, answered := c.push(deviceToken, "apns-id", apnsID), c.push(deviceToken)
	if r := c.Response(); r.Stream != answered || r.Status != 200 {
		t.Errorf("got %+v", r)
	}
	c.Must(c.Frames.WriteRSTStream(dropped, http2.ErrCodeCancel))
	c.Ping()
	wantEntries(t, m, "drop_response 200 true false", "200 true true")
	if n := m.Ledger().AcceptedByID()[apnsID]; n != 1 {
		t.Errorf("accepted %d times", n)
	}
}

func TestStalledConnectionProcessesNothing(t *testing.T) {
	m := start(t, mockprovider.Fault{Stall: &mockprovider.Stall{After: 1}})
	c := open(t, m, m.APNsAddrs()[0])
	c.push(deviceToken)
	if r := c.Response(); r.Status != 200 {
		t.Fatalf("got %+v", r)
	}
	c.push(deviceToken)
	c.Must(c.Frames.WritePing(false, [8]byte{7}))
	eventually(t, "the second entry", func() bool { return len(entries(m)) == 2 })
	wantEntries(t, m, "200 true true", "stall 0 false false")
	setScript(t, m) // requests of the stall stay unanswered
	c.push(deviceToken)
	if r := c.Response(); r.Stream != 5 {
		t.Errorf("after the stall: got %+v", r)
	}
	other := open(t, m, m.APNsAddrs()[0])
	other.push(deviceToken)
	other.Response()
}

func TestStallAnswersPingsIfConfigured(t *testing.T) {
	m := start(t, mockprovider.Fault{Stall: &mockprovider.Stall{AnswerPings: true}})
	c := open(t, m, m.APNsAddrs()[0])
	c.push(deviceToken)
	c.Ping()
	wantEntries(t, m, "stall 0 false false")
}

func TestStallOfATokenDoesNotAffectOthers(t *testing.T) {
	m := start(t, mockprovider.Fault{Token: deviceToken, Stall: &mockprovider.Stall{}})
	c := open(t, m, m.APNsAddrs()[0])
	c.push(deviceToken)
	id := c.push("aa" + deviceToken)
	if r := c.Response(); r.Stream != id {
		t.Errorf("got %+v", r)
	}
	c.Ping()
}

func TestBlackholeFreezesConnectionsAndHandshakes(t *testing.T) {
	m := start(t)
	old := open(t, m, m.APNsAddrs()[0])
	setScript(t, m, mockprovider.Fault{Service: "apns", Blackhole: true})
	fresh := dial(t, m, m.APNsAddrs()[0], "h2")
	handshake := make(chan error, 1)
	go func() { handshake <- fresh.TLS.Handshake() }()
	eventually(t, "the second connection", func() bool { return m.Ledger().Summary().Services["apns"].Dials == 2 })
	old.push(deviceToken)
	select {
	case err := <-handshake:
		t.Fatalf("the handshake ended with %v", err)
	default:
	}
	if got := entries(m); len(got) != 0 {
		t.Fatalf("the ledger has %q", got)
	}
	setScript(t, m)
	if err := testwait.For(t, handshake, "the handshake"); err != nil {
		t.Errorf("afterwards: the handshake ended with %v", err)
	}
	if r := old.Response(); r.Status != 200 {
		t.Errorf("afterwards: got %+v", r)
	}
}

func TestRequestOfAResetStreamIsUnprocessed(t *testing.T) {
	m := start(t, mockprovider.Fault{RST: "INTERNAL_ERROR", Times: 1}, mockprovider.Fault{RST: "REFUSED_STREAM", Times: 1})
	c := open(t, m, m.APNsAddrs()[0])
	for _, code := range []http2.ErrCode{http2.ErrCodeInternal, http2.ErrCodeRefusedStream} {
		c.push(deviceToken)
		if r := c.Response(); r.Code != code {
			t.Errorf("got %+v, want %v", r, code)
		}
	}
	wantEntries(t, m, "rst INTERNAL_ERROR 0 false false", "rst REFUSED_STREAM 0 false false")
}

func TestGoAwayLeavesTheLastStreamsUnprocessed(t *testing.T) {
	for delay := 20 * time.Millisecond; !goAwayInTime(t, delay) && delay < time.Minute; delay *= 4 {
		t.Logf("the machine was busy for longer than %s", delay)
	}
}

// goAwayInTime sends four requests, and a fifth one after the GOAWAY. It returns false if the first
// response, which is delayed, was sent before the fourth request had arrived.
func goAwayInTime(t *testing.T, delay time.Duration) bool {
	m := start(t,
		mockprovider.Fault{GoAway: &mockprovider.GoAway{Every: 4, LastOffset: -2, Debug: `{"reason":"Shutdown"}`}, Delay: delay},
		mockprovider.Fault{Delay: delay})
	c := open(t, m, m.APNsAddrs()[0])
	for range 4 + 1 {
		c.push(deviceToken)
	}
	first := c.Read()
	if _, early := first.(*http2.HeadersFrame); early {
		return false
	}
	goAway, ok := first.(*http2.GoAwayFrame)
	if !ok || goAway.LastStreamID != 3 || goAway.ErrCode != 0 || string(goAway.DebugData()) != `{"reason":"Shutdown"}` {
		t.Fatalf("got %+v", goAway)
	}
	if a, b := c.Response(), c.Response(); a.Stream+b.Stream != 1+3 || a.Status != 200 || b.Status != 200 {
		t.Errorf("got %+v and %+v", a, b)
	}
	if _, _, err := c.ReadToEnd(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %v", err)
	}
	got := entries(m)
	slices.Sort(got)
	if want := []string{"delay 200 true true", "delay 200 true true", "goaway 0 false false", "goaway 0 false false", "goaway 0 false false"}; !slices.Equal(got, want) {
		t.Errorf("the ledger has %q, want %q", got, want)
	}
	return true
}

func TestImmediateGoAwayAffectsOnlyOpenConnections(t *testing.T) {
	m := start(t)
	old := open(t, m, m.APNsAddrs()[0])
	setScript(t, m, mockprovider.Fault{GoAway: &mockprovider.GoAway{Code: "ENHANCE_YOUR_CALM", Debug: "too_many_pings"}})
	goAway, debug, err := old.ReadToEnd()
	if goAway == nil || goAway.ErrCode != http2.ErrCodeEnhanceYourCalm || debug != "too_many_pings" || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v %q %v", goAway, debug, err)
	}
	fresh := open(t, m, m.APNsAddrs()[0])
	fresh.push(deviceToken)
	if r := fresh.Response(); r.Status != 200 {
		t.Errorf("got %+v", r)
	}
}

func TestResetConnectionProcessedTheOldestShare(t *testing.T) {
	m := start(t, mockprovider.Fault{Reset: &mockprovider.Reset{Every: 4, Processed: 0.5}}, mockprovider.Fault{Delay: time.Hour})
	c := open(t, m, m.APNsAddrs()[0])
	for range 4 {
		c.push(deviceToken)
	}
	if _, _, err := c.ReadToEnd(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
	eventually(t, "the ledger's entries", func() bool { return len(entries(m)) == 4 })
	wantEntries(t, m, "reset 200 true false", "reset 200 true false", "reset 0 false false", "reset 0 false false")
}

func TestImmediateResetAffectsOpenConnections(t *testing.T) {
	m := start(t)
	c := open(t, m, m.APNsAddrs()[0])
	setScript(t, m, mockprovider.Fault{Reset: &mockprovider.Reset{}})
	if _, _, err := c.ReadToEnd(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
}

func TestRefusedEndpointAcceptsConnectionsAfterwards(t *testing.T) {
	m := start(t)
	addr := m.APNsAddrs()[0]
	setScript(t, m, mockprovider.Fault{Endpoint: addr.String(), Refuse: true})
	dial := func() error {
		nc, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = nc.Close()
		}
		return err
	}
	eventually(t, "refused connections", func() bool { return errors.Is(dial(), syscall.ECONNREFUSED) })
	open(t, m, m.APNsAddrs()[1]) // the other endpoints accept connections
	setScript(t, m)
	eventually(t, "accepted connections", func() bool { return dial() == nil })
	open(t, m, addr)
}

func TestHandshakesAreDelayed(t *testing.T) {
	for name, f := range map[string]mockprovider.Fault{
		"accept": {AcceptDelay: 30 * time.Millisecond}, "tls": {TLSDelay: 30 * time.Millisecond},
	} {
		m := start(t, f)
		began := time.Now()
		open(t, m, m.APNsAddrs()[0])
		if took := time.Since(began); took < 30*time.Millisecond {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestStreamLimitOfAFaultIsRestored(t *testing.T) {
	m := start(t)
	c := open(t, m, m.APNsAddrs()[0])
	for _, want := range []uint32{3, 1000} {
		if want == 3 {
			setScript(t, m, mockprovider.Fault{MaxStreams: 3})
		} else {
			setScript(t, m)
		}
		c.Read()
		if got := c.Limits[len(c.Limits)-1]; got != want {
			t.Errorf("announced %d, want %d", got, want)
		}
		c.push(deviceToken)
		if r := c.Response(); r.Status != 200 {
			t.Errorf("got %+v", r)
		}
	}
	if len(c.Limits) != 3 {
		t.Errorf("announced %v: responses must not change the limit of a fault", c.Limits)
	}
}

func TestFaultBeginsAndEndsAtItsTimes(t *testing.T) {
	const end = 80 * time.Millisecond
	m := start(t, mockprovider.Fault{From: end / 2, Until: end, Status: 500})
	began := time.Now()
	c := open(t, m, m.APNsAddrs()[0])
	var phases []int
	eventually(t, "the third phase", func() bool {
		over := time.Since(began) > end
		c.push(deviceToken)
		if r := c.Response(); len(phases) == 0 || phases[len(phases)-1] != r.Status {
			phases = append(phases, r.Status)
		}
		return over && phases[len(phases)-1] == 200
	})
	switch got := fmt.Sprint(phases); got {
	case "[200 500 200]", "[500 200]", "[200]": // a slow machine may miss phases, except the last one
	default:
		t.Errorf("phases %s", got)
	}
}

func TestShareAffectsThatShareOfRequests(t *testing.T) {
	m := start(t, mockprovider.Fault{Share: 0.3, Status: 500})
	c := open(t, m, m.APNsAddrs()[0])
	bad := 0
	for range 500 {
		c.push(deviceToken)
		if c.Response().Status == 500 {
			bad++
		}
	}
	if bad < 100 || bad > 200 {
		t.Errorf("%d of 500 requests were affected, want about 150", bad)
	}
}

func TestTokenShareAlwaysAffectsTheSameTokens(t *testing.T) {
	m := start(t, mockprovider.Fault{TokenShare: 0.5, Status: 500})
	c := open(t, m, m.APNsAddrs()[0])
	statuses := map[string][]int{}
	for range 3 {
		for i := range 50 {
			token := fmt.Sprintf("%02x%s", i, deviceToken)
			c.push(token)
			statuses[token] = append(statuses[token], c.Response().Status)
		}
	}
	bad := 0
	for token, got := range statuses {
		if got[0] != got[1] || got[1] != got[2] {
			t.Errorf("%s: %v", token, got)
		}
		if got[0] == 500 {
			bad++
		}
	}
	if bad < 10 || bad > 40 {
		t.Errorf("%d of 50 tokens were affected, want about 25", bad)
	}
}

func TestOAuthEndpointCanFail(t *testing.T) {
	m := start(t, mockprovider.Fault{Service: "oauth", Status: 503, Times: 1})
	if got := exchange(t, m, assertion(t, m, nil)); got.status != 503 || got.object["error"] != "backend_error" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	accessToken(t, m)
}

func TestFaultsAffectHTTP1(t *testing.T) {
	m := start(t,
		mockprovider.Fault{Service: "fcm", Token: "a:*", Reset: &mockprovider.Reset{Every: 1}},
		mockprovider.Fault{Service: "fcm", Token: "b:*", DropResponse: true},
		mockprovider.Fault{Service: "fcm", Token: "c:*", Status: 503, RetryAfter: time.Minute},
		mockprovider.Fault{Service: "fcm", Token: "d:*", GoAway: &mockprovider.GoAway{Every: 1}},
		mockprovider.Fault{Service: "fcm", Token: "e:*", RST: "REFUSED_STREAM"},
		mockprovider.Fault{Service: "fcm", Token: "f:*", Reset: &mockprovider.Reset{Every: 1, Processed: 1}},
		mockprovider.Fault{Service: "fcm", Token: "g:*", Reset: &mockprovider.Reset{Every: 1, Processed: 0.5}})
	access := accessToken(t, m)
	c := newHTTP1Client(t, m)
	for token, accepted := range map[string]bool{"a:x": false, "e:x": false, "f:x": true, "g:x": false} {
		if _, err := c.Do(message(t, m, access, to(token))); err == nil { //nolint:bodyclose // there is no response
			t.Errorf("%s: there is a response", token)
		}
		e := m.Ledger().Expect(t, mockprovider.Query{Token: token}, 1)[0]
		if e.Accepted != accepted || e.Answered || e.Fault == "" {
			t.Errorf("%s: the ledger has %+v", token, e)
		}
	}
	if got := do(t, c, message(t, m, access, to("c:x"))); got.status != 503 || got.header.Get("retry-after") != "60" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	if got := do(t, c, message(t, m, access, to("d:x"))); got.status != 200 {
		t.Errorf("got %d", got.status)
	}
	c.Timeout = 100 * time.Millisecond
	eventually(t, "the entry of the dropped response", func() bool { // a slow machine may need more time to send the request
		c.Timeout *= 2
		if _, err := c.Do(message(t, m, access, to("b:x"))); err == nil { //nolint:bodyclose // there is no response
			t.Error("b:x: there is a response")
		}
		return m.Ledger().Count(mockprovider.Query{Service: "fcm", Token: "b:x"}) > 0
	})
	if e := m.Ledger().Entries(mockprovider.Query{Token: "b:x"})[0]; !e.Accepted || e.Answered {
		t.Errorf("dropped response: %+v", e)
	}
}

func TestFaultHasAnyReason(t *testing.T) {
	for reason, status := range map[string]int{
		"IdleTimeout": 400, "BadCertificate": 403, "BadCertificateEnvironment": 403, "Forbidden": 403,
		"BadEnvironmentKeyIdInToken": 403, "BadEnvironmentKeyInToken": 403, "Shutdown": 503, "NeverHeardOf": 418,
	} {
		m := start(t, mockprovider.Fault{Status: status, Reason: reason})
		got := do(t, newClient(t, m), push(t, m))
		if got.status != status || got.body != `{"reason":"`+reason+`"}` {
			t.Errorf("got %d %s, want %d %s", got.status, got.body, status, reason)
		}
	}
}

func TestShutdownIsAResponseFollowedByGoAway(t *testing.T) {
	m := start(t, mockprovider.Fault{Status: 503, Reason: "Shutdown", GoAway: &mockprovider.GoAway{Every: 1}})
	c := open(t, m, m.APNsAddrs()[0])
	c.push(deviceToken)
	if r := c.Response(); r.Status != 503 {
		t.Errorf("got %+v", r)
	}
	if goAway, _, err := c.ReadToEnd(); goAway == nil || goAway.LastStreamID != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v %v", goAway, err)
	}
}

func TestClockOfAServiceDecidesAboutSignedTimes(t *testing.T) {
	m := mockprovider.Start(t)
	for ahead, want := range map[time.Duration]string{
		61 * time.Minute: "ExpiredProviderToken", -61 * time.Minute: "InvalidProviderToken", time.Minute: "",
	} {
		setScript(t, m, mockprovider.Fault{Clock: ahead})
		if reason, _ := do(t, newClient(t, m), push(t, m)).object["reason"].(string); reason != want {
			t.Errorf("%s ahead: a new provider token is rejected with %q, want %q", ahead, reason, want)
		}
		got := exchange(t, m, assertion(t, m, nil))
		if rejected := got.object["error"] == "invalid_grant"; rejected != (want != "") {
			t.Errorf("%s ahead: a new assertion: got %d %s", ahead, got.status, got.body)
		}
	}
}
