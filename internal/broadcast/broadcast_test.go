// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

const simple = `{"message": {"title": "Hello"}, "audience": {"platform": "fcm"}, "recall": {"message": {"title": "Sorry"}}}`

func TestBroadcastReachesEachDeviceOnce(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	n.sender.answer = func(n *push.Notification) push.Outcome {
		switch n.Token {
		case "000003":
			return push.Outcome{Verdict: push.Unregistered, Reason: "UNREGISTERED"}
		case "000004":
			return push.Outcome{Verdict: push.Refused, Reason: "Bad"}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	const count = 2000
	id := n.create(simple, lines(count)+"{\"token\":\"000001\"}\n{\"token\":\"bad\"}\nnonsense\n")
	n.do(id, broadcast.Validate)
	v := n.waitState(id, broadcast.Ready)
	if f := v.Validation; f.Lines != count+3 || f.Valid != count || f.Invalid != 2 || f.Duplicates != 1 || f.Devices < count*98/100 || f.Platforms[push.FCM] != count {
		t.Errorf("%+v", f)
	}
	page, err := n.Invalid(t.Context(), app, id, 0, 2)
	if err != nil || len(page.Lines) != 2 || page.Lines[0].Line != count+2 || page.Lines[0].Reason != "InvalidTarget" || page.Lines[1].Line != count+3 || page.Next != 2 {
		t.Errorf("%+v, %v", page, err)
	}
	page, err = n.Invalid(t.Context(), app, id, page.Next, 2)
	if err != nil || len(page.Lines) != 1 || page.Lines[0].Line != count+1 || page.Lines[0].Reason != audience.DuplicateTarget || page.Next != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	n.do(id, broadcast.Start)
	v = n.waitState(id, broadcast.Completed)
	if c := v.Counts; c.Total != count || c.Accepted != count-2 || c.Unregistered != 1 || c.Refused != 1 || c.Pending+c.Queued != 0 {
		t.Errorf("%+v", c)
	}
	sent := n.sender.counted()
	if len(sent) != count {
		t.Errorf("%d devices, want %d", len(sent), count)
	}
	for name, attempts := range sent {
		if attempts != 1 {
			t.Errorf("%s: %d attempts", name, attempts)
		}
	}
	statuses := map[string]int{}
	for _, r := range n.results(id) {
		statuses[r.Status]++
	}
	if want := fmt.Sprint(map[string]int{"accepted": count - 2, "unregistered": 1, "refused": 1, "duplicate": 1, "invalid": 2}); fmt.Sprint(statuses) != want {
		t.Errorf("%v, want %s", statuses, want)
	}
}

func TestPausedBroadcastStartsNoAttempt(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(strings.Replace(simple, "{", `{"rate": {"per_minute": 120000}, `, 1), lines(3000))
	n.start(id)
	for n.sender.attempts() < 3000 {
		testwait.Until(t, func() bool { return n.sender.attempts() > 0 }, "an attempt")
		n.do(id, broadcast.Pause)
		before := n.sender.attempts()
		v := n.get(id)
		if v.State != broadcast.Paused || v.Counts.Total != 3000 {
			t.Fatalf("%+v", v)
		}
		if after := n.sender.attempts(); after > before+64 {
			t.Errorf("%d attempts after the pause", after-before)
		}
		n.do(id, broadcast.Resume)
		want := min(3000, before+500)
		testwait.Until(t, func() bool { return n.sender.attempts() >= want }, "further attempts")
	}
	v := n.waitState(id, broadcast.Completed)
	if c := v.Counts; c.Accepted != 3000 {
		t.Errorf("%+v", c)
	}
}

func TestRecallReachesWhoeverWasReached(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	n.sender.answer = func(n *push.Notification) push.Outcome {
		switch {
		case n.Title == "Sorry":
		case n.Token < "000010":
			return push.Outcome{Verdict: push.Unregistered, Reason: "UNREGISTERED"}
		case n.Token < "000020":
			return push.Outcome{Verdict: push.Unknown, Reason: "Timeout"}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	id := n.create(strings.Replace(simple, "{", `{"rate": {"per_minute": 60000}, `, 1), lines(3000))
	n.start(id)
	testwait.Until(t, func() bool { return n.sender.attempts() >= 300 }, "some attempts")
	n.do(id, broadcast.Recall)
	v := n.waitState(id, broadcast.Recalled)
	sent := n.sender.counted()
	reached := 0
	for i := 1; i <= 3000; i++ {
		token := fmt.Sprintf("%06d", i)
		first, second := sent["Hello "+token], sent["Sorry "+token]
		want := first
		if token < "000010" {
			want = 0
		}
		if first > 1 || second != want {
			t.Errorf("%s: %d messages and %d recalls", token, first, second)
		}
		reached += second
	}
	if c := v.RecallCounts; int(c.Total) != reached || int(c.Accepted) != reached || reached < 280 || reached > 2900 {
		t.Errorf("%+v, reached %d", c, reached)
	}
	if c := v.Counts; c.Pending+c.Cancelled+c.Accepted+c.Unknown+c.Unregistered != 3000 || c.Queued != 0 {
		t.Errorf("%+v", c)
	}
	var recalls []string
	for _, name := range n.sender.order {
		if token, ok := strings.CutPrefix(name, "Sorry "); ok {
			recalls = append(recalls, token)
		}
	}
	if recalls[0] <= recalls[len(recalls)-1] {
		t.Errorf("recalls from %s to %s, want the last line first", recalls[0], recalls[len(recalls)-1])
	}
}
