// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/mockprovider"
)

// spoiled is a mock with many streams and those faults.
func spoiled(t testing.TB, faults ...mockprovider.Fault) *mockprovider.Mock {
	t.Helper()
	return mockprovider.Start(t, mockprovider.Config{
		Streams: mockprovider.Streams{Start: 1000}, Script: mockprovider.Script{Faults: faults}, Seed: 1,
	})
}

func play(t testing.TB, m *mockprovider.Mock, faults ...mockprovider.Fault) {
	t.Helper()
	if err := m.Play(mockprovider.Script{Faults: faults}); err != nil {
		t.Fatal(err)
	}
}

// until repeats what cannot be waited for, such as a script's effect on connections, for as long as the test may run.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: has not happened", what)
		}
	}
}

// seen are the ledger's entries of APNs, as "fault status accepted answered".
func seen(m *mockprovider.Mock) []string {
	var all []string
	for _, e := range m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %d %t %t", e.Fault, e.Status, e.Accepted, e.Answered)))
	}
	return all
}

func wantSeen(t testing.TB, m *mockprovider.Mock, want ...string) {
	t.Helper()
	if got := seen(m); !slices.Equal(got, want) {
		t.Errorf("the ledger has %q, want %q", got, want)
	}
}

func TestAStatusFaultHitsItsEndpointAndTokenAsOftenAsItSays(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{
		Service: "apns", Endpoint: "1", Token: "00fc*", Times: 2, Status: 503, Reason: "Shutdown", RetryAfter: 3 * time.Second,
	})
	other, struck := open(t, m, m.APNsAddrs()[0]), open(t, m, m.APNsAddrs()[1])
	var got []int
	for _, step := range []struct {
		on    *line
		token string
	}{{other, goodToken}, {struck, "aa" + goodToken}, {struck, goodToken}, {struck, goodToken}, {struck, goodToken}} {
		step.on.push(step.token)
		r := step.on.answer()
		got = append(got, r.status)
		if r.status == 503 && (r.body != `{"reason":"Shutdown"}` || r.fields["retry-after"] != "3") {
			t.Errorf("got %+v", r)
		}
	}
	if fmt.Sprint(got) != "[200 200 503 503 200]" {
		t.Errorf("got %v", got)
	}
}

func TestAnEndpointCanBeNamedByItsAddress(t *testing.T) {
	m := spoiled(t)
	play(t, m, mockprovider.Fault{Endpoint: m.APNsAddrs()[2].String(), Status: 500})
	for i, addr := range m.APNsAddrs()[:3] {
		l := open(t, m, addr)
		l.push(goodToken)
		if r := l.answer(); (r.status == 500) != (i == 2) {
			t.Errorf("endpoint %d answered %d", i, r.status)
		}
	}
}

func TestADelayedAnswerIsOvertaken(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Token: "aa*", Delay: time.Hour}, mockprovider.Fault{Token: "bb*", Delay: 30 * time.Millisecond})
	l := open(t, m, m.APNsAddrs()[0])
	l.push("aa" + goodToken)
	for _, token := range []string{goodToken, "bb" + goodToken} {
		id := l.push(token)
		if r := l.answer(); r.stream != id || r.status != 200 {
			t.Errorf("got %+v", r)
		}
	}
	wantSeen(t, m, "200 true true", "delay 200 true true")
}

func TestADroppedResponseWasAcceptedAllTheSame(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{DropResponse: true, Times: 1})
	l := open(t, m, m.APNsAddrs()[0])
	lost, found := l.push(goodToken, "apns-id", goodID), l.push(goodToken)
	if r := l.answer(); r.stream != found || r.status != 200 {
		t.Errorf("got %+v", r)
	}
	l.must(l.frames.WriteRSTStream(lost, http2.ErrCodeCancel))
	l.ping()
	wantSeen(t, m, "drop_response 200 true false", "200 true true")
	if n := m.Ledger().AcceptedByID()[goodID]; n != 1 {
		t.Errorf("accepted %d times", n)
	}
}

func TestAStalledConnectionIsSilentAndProcessesNothing(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Stall: &mockprovider.Stall{After: 1}})
	l := open(t, m, m.APNsAddrs()[0])
	l.push(goodToken)
	if r := l.answer(); r.status != 200 {
		t.Fatalf("got %+v", r)
	}
	l.push(goodToken)
	l.must(l.frames.WritePing(false, [8]byte{7}))
	until(t, "the second push", func() bool { return len(seen(m)) == 2 })
	wantSeen(t, m, "200 true true", "stall 0 false false")
	play(t, m) // it heals: what was swallowed stays so
	l.push(goodToken)
	if r := l.answer(); r.stream != 5 {
		t.Errorf("after the stall came %+v", r)
	}
	other := open(t, m, m.APNsAddrs()[0])
	other.push(goodToken)
	other.answer()
}

func TestAStallMayAnswerPings(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Stall: &mockprovider.Stall{AnswerPings: true}})
	l := open(t, m, m.APNsAddrs()[0])
	l.push(goodToken)
	l.ping()
	wantSeen(t, m, "stall 0 false false")
}

func TestAStallOfATokenLeavesOthersAlone(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Token: goodToken, Stall: &mockprovider.Stall{}})
	l := open(t, m, m.APNsAddrs()[0])
	l.push(goodToken)
	id := l.push("aa" + goodToken)
	if r := l.answer(); r.stream != id {
		t.Errorf("got %+v", r)
	}
	l.ping()
}

func TestABlackholeFreezesOldConnectionsAndLetsNoNewOneIn(t *testing.T) {
	m := spoiled(t)
	old := open(t, m, m.APNsAddrs()[0])
	play(t, m, mockprovider.Fault{Service: "apns", Blackhole: true})
	fresh := connect(t, m, m.APNsAddrs()[0], "h2")
	shaken := make(chan error, 1)
	go func() { shaken <- fresh.nc.Handshake() }()
	until(t, "the dial", func() bool { return m.Ledger().Summary().Services["apns"].Dials == 2 })
	old.push(goodToken)
	select {
	case err := <-shaken:
		t.Fatalf("the handshake ended: %v", err)
	default:
	}
	if got := seen(m); len(got) != 0 {
		t.Fatalf("the ledger has %q", got)
	}
	play(t, m)
	if err := <-shaken; err != nil {
		t.Errorf("after the thaw: %v", err)
	}
	if r := old.answer(); r.status != 200 {
		t.Errorf("after the thaw: %+v", r)
	}
}

func TestAResetStreamIsUnprocessed(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{RST: "INTERNAL_ERROR", Times: 1}, mockprovider.Fault{RST: "REFUSED_STREAM", Times: 1})
	l := open(t, m, m.APNsAddrs()[0])
	for _, code := range []http2.ErrCode{http2.ErrCodeInternal, http2.ErrCodeRefusedStream} {
		l.push(goodToken)
		if r := l.answer(); r.code != code {
			t.Errorf("got %+v, want %v", r, code)
		}
	}
	wantSeen(t, m, "rst INTERNAL_ERROR 0 false false", "rst REFUSED_STREAM 0 false false")
}

func TestAGoAwayCutsTheLastStreamsAndAnswersTheOthers(t *testing.T) {
	for delay := 20 * time.Millisecond; !cut(t, delay) && delay < time.Minute; delay *= 4 {
		t.Logf("the machine was held up for longer than %s", delay)
	}
}

// cut sends four requests and one that is too late, and returns false if the first was answered, after its delay, before the
// fourth had come.
func cut(t *testing.T, delay time.Duration) bool {
	m := spoiled(t,
		mockprovider.Fault{GoAway: &mockprovider.GoAway{Every: 4, LastOffset: -2, Debug: `{"reason":"Shutdown"}`}, Delay: delay},
		mockprovider.Fault{Delay: delay})
	l := open(t, m, m.APNsAddrs()[0])
	for range 4 + 1 {
		l.push(goodToken)
	}
	first := l.read()
	if _, early := first.(*http2.HeadersFrame); early {
		return false
	}
	away, ok := first.(*http2.GoAwayFrame)
	if !ok || away.LastStreamID != 3 || away.ErrCode != 0 || string(away.DebugData()) != `{"reason":"Shutdown"}` {
		t.Fatalf("got %+v", away)
	}
	if a, b := l.answer(), l.answer(); a.stream+b.stream != 1+3 || a.status != 200 || b.status != 200 {
		t.Errorf("got %+v and %+v", a, b)
	}
	if _, _, err := l.ended(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %v", err)
	}
	got := seen(m)
	slices.Sort(got)
	if want := []string{"delay 200 true true", "delay 200 true true", "goaway 0 false false", "goaway 0 false false", "goaway 0 false false"}; !slices.Equal(got, want) {
		t.Errorf("the ledger has %q, want %q", got, want)
	}
	return true
}

func TestAGoAwayAtOnceReachesStandingConnectionsOnly(t *testing.T) {
	m := spoiled(t)
	old := open(t, m, m.APNsAddrs()[0])
	play(t, m, mockprovider.Fault{GoAway: &mockprovider.GoAway{Code: "ENHANCE_YOUR_CALM", Debug: "too_many_pings"}})
	away, debug, err := old.ended()
	if away == nil || away.ErrCode != http2.ErrCodeEnhanceYourCalm || debug != "too_many_pings" || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v %q %v", away, debug, err)
	}
	fresh := open(t, m, m.APNsAddrs()[0])
	fresh.push(goodToken)
	if r := fresh.answer(); r.status != 200 {
		t.Errorf("got %+v", r)
	}
}

func TestAResetConnectionProcessedTheOldestPart(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Reset: &mockprovider.Reset{Every: 4, Processed: 0.5}}, mockprovider.Fault{Delay: time.Hour})
	l := open(t, m, m.APNsAddrs()[0])
	for range 4 {
		l.push(goodToken)
	}
	if _, _, err := l.ended(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
	until(t, "the ledger's entries", func() bool { return len(seen(m)) == 4 })
	wantSeen(t, m, "delay 200 true false", "delay 200 true false", "reset 0 false false", "reset 0 false false")
}

func TestAResetAtOnceReachesStandingConnections(t *testing.T) {
	m := spoiled(t)
	l := open(t, m, m.APNsAddrs()[0])
	play(t, m, mockprovider.Fault{Reset: &mockprovider.Reset{}})
	if _, _, err := l.ended(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
}

func TestRefusedConnectsAreAcceptedAgainAfterwards(t *testing.T) {
	m := spoiled(t)
	addr := m.APNsAddrs()[0]
	play(t, m, mockprovider.Fault{Endpoint: addr.String(), Refuse: true})
	dial := func() error {
		nc, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = nc.Close()
		}
		return err
	}
	until(t, "refused connects", func() bool { return errors.Is(dial(), syscall.ECONNREFUSED) })
	open(t, m, m.APNsAddrs()[1]) // the others are well
	play(t, m)
	until(t, "accepted connects", func() bool { return dial() == nil })
	open(t, m, addr)
}

func TestHandshakesAreHeldBack(t *testing.T) {
	for name, f := range map[string]mockprovider.Fault{
		"accept": {AcceptDelay: 30 * time.Millisecond}, "tls": {TLSDelay: 30 * time.Millisecond},
	} {
		m := spoiled(t, f)
		began := time.Now()
		open(t, m, m.APNsAddrs()[0])
		if took := time.Since(began); took < 30*time.Millisecond {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestAStreamLimitIsForcedAndRestored(t *testing.T) {
	m := spoiled(t)
	l := open(t, m, m.APNsAddrs()[0])
	for _, want := range []uint32{3, 1000} {
		if want == 3 {
			play(t, m, mockprovider.Fault{MaxStreams: 3})
		} else {
			play(t, m)
		}
		l.read()
		if got := l.limits[len(l.limits)-1]; got != want {
			t.Errorf("announced %d, want %d", got, want)
		}
		l.push(goodToken)
		if r := l.answer(); r.status != 200 {
			t.Errorf("got %+v", r)
		}
	}
	if len(l.limits) != 3 {
		t.Errorf("announced %v: a forced limit must not follow answers", l.limits)
	}
}

func TestAFaultBeginsAndEndsInItsTime(t *testing.T) {
	const end = 80 * time.Millisecond
	m := spoiled(t, mockprovider.Fault{From: end / 2, Until: end, Status: 500})
	began := time.Now()
	l := open(t, m, m.APNsAddrs()[0])
	var phases []int
	until(t, "the third phase", func() bool {
		over := time.Since(began) > end
		l.push(goodToken)
		if r := l.answer(); len(phases) == 0 || phases[len(phases)-1] != r.status {
			phases = append(phases, r.status)
		}
		return over && phases[len(phases)-1] == 200
	})
	switch got := fmt.Sprint(phases); got {
	case "[200 500 200]", "[500 200]", "[200]": // a slow machine misses phases, but never the last
	default:
		t.Errorf("phases %s", got)
	}
}

func TestSharesAreKept(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Share: 0.3, Status: 500})
	l := open(t, m, m.APNsAddrs()[0])
	bad := 0
	for range 500 {
		l.push(goodToken)
		if l.answer().status == 500 {
			bad++
		}
	}
	if bad < 100 || bad > 200 {
		t.Errorf("%d of 500 were hit, want about 150", bad)
	}
}

func TestATokenShareHitsTheSameTokensAlways(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{TokenShare: 0.5, Status: 500})
	l := open(t, m, m.APNsAddrs()[0])
	hit := map[string][]int{}
	for range 3 {
		for i := range 50 {
			token := fmt.Sprintf("%02x%s", i, goodToken)
			l.push(token)
			hit[token] = append(hit[token], l.answer().status)
		}
	}
	bad := 0
	for token, statuses := range hit {
		if statuses[0] != statuses[1] || statuses[1] != statuses[2] {
			t.Errorf("%s: %v", token, statuses)
		}
		if statuses[0] == 500 {
			bad++
		}
	}
	if bad < 10 || bad > 40 {
		t.Errorf("%d of 50 tokens were hit, want about 25", bad)
	}
}

func TestTheOAuthEndpointCanBeDown(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Service: "oauth", Status: 503, Times: 1})
	if got := exchange(t, m, grantForm(assertion(t, m, nil))); got.status != 503 || got.object["error"] != "backend_error" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	accessToken(t, m)
}

func TestFaultsHitHTTP1Too(t *testing.T) {
	m := spoiled(t,
		mockprovider.Fault{Service: "fcm", Token: "a:*", Reset: &mockprovider.Reset{Every: 1}},
		mockprovider.Fault{Service: "fcm", Token: "b:*", DropResponse: true},
		mockprovider.Fault{Service: "fcm", Token: "c:*", Status: 503, RetryAfter: time.Minute},
		mockprovider.Fault{Service: "fcm", Token: "d:*", GoAway: &mockprovider.GoAway{Every: 1}},
		mockprovider.Fault{Service: "fcm", Token: "e:*", RST: "REFUSED_STREAM"})
	access := accessToken(t, m)
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: m.ClientTLS()}, Timeout: time.Minute}
	t.Cleanup(old.CloseIdleConnections)
	for _, token := range []string{"a:x", "e:x"} {
		if _, err := old.Do(message(t, m, access, to(token))); err == nil { //nolint:bodyclose // there is none
			t.Errorf("%s was answered", token)
		}
	}
	if got := do(t, old, message(t, m, access, to("c:x"))); got.status != 503 || got.header.Get("retry-after") != "60" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	if got := do(t, old, message(t, m, access, to("d:x"))); got.status != 200 {
		t.Errorf("got %d", got.status)
	}
	old.Timeout = 100 * time.Millisecond
	until(t, "the dropped one's end", func() bool { // a slow machine may need longer to send it
		old.Timeout *= 2
		if _, err := old.Do(message(t, m, access, to("b:x"))); err == nil { //nolint:bodyclose // there is none
			t.Error("b:x was answered")
		}
		return m.Ledger().Count(mockprovider.Query{Service: "fcm", Token: "b:x"}) > 0
	})
	if e := m.Ledger().Entries(mockprovider.Query{Token: "b:x"})[0]; !e.Accepted || e.Answered {
		t.Errorf("dropped: %+v", e)
	}
}

func TestAnyReasonCanBeScripted(t *testing.T) {
	for reason, status := range map[string]int{
		"IdleTimeout": 400, "BadCertificate": 403, "BadCertificateEnvironment": 403, "Forbidden": 403,
		"BadEnvironmentKeyIdInToken": 403, "BadEnvironmentKeyInToken": 403, "Shutdown": 503, "NeverHeardOf": 418,
	} {
		m := spoiled(t, mockprovider.Fault{Status: status, Reason: reason})
		got := do(t, client(t, m), push(t, m, nil))
		if got.status != status || got.body != `{"reason":"`+reason+`"}` {
			t.Errorf("got %d %s, want %d %s", got.status, got.body, status, reason)
		}
	}
}

func TestAPoliteShutdownIs503AndThenAGoAway(t *testing.T) {
	m := spoiled(t, mockprovider.Fault{Status: 503, Reason: "Shutdown", GoAway: &mockprovider.GoAway{Every: 1}})
	l := open(t, m, m.APNsAddrs()[0])
	l.push(goodToken)
	if r := l.answer(); r.status != 503 {
		t.Errorf("got %+v", r)
	}
	if away, _, err := l.ended(); away == nil || away.LastStreamID != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v %v", away, err)
	}
}

func TestAServiceWhoseClockIsElsewhereFindsWhatIsSignedTooOldOrFromTheFuture(t *testing.T) {
	m := mockprovider.Start(t)
	for ahead, want := range map[time.Duration]string{
		61 * time.Minute: "ExpiredProviderToken", -61 * time.Minute: "InvalidProviderToken", time.Minute: "",
	} {
		play(t, m, mockprovider.Fault{Clock: ahead})
		if reason, _ := do(t, client(t, m), push(t, m, nil)).object["reason"].(string); reason != want {
			t.Errorf("%s ahead: a fresh provider token is answered %q, want %q", ahead, reason, want)
		}
		got := exchange(t, m, grantForm(assertion(t, m, nil)))
		if refused := got.object["error"] == "invalid_grant"; refused != (want != "") {
			t.Errorf("%s ahead: a fresh assertion is answered %d %s", ahead, got.status, got.body)
		}
	}
}
