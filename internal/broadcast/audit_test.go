// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// audit audits a broadcast. change changes what was read from the log, unless it is nil.
func (n *node) audit(ctx context.Context, id string, change func(broadcast.LoggedLine, func(broadcast.LoggedLine))) (*broadcast.Audit, error) {
	return broadcast.RunAudit(ctx, broadcast.AuditConfig{
		Engine: n.engine, Tally: n.queue.Tally,
		Read: func(ctx context.Context, id uuid.UUID, f func(broadcast.LoggedLine)) (bool, error) {
			return audit.Broadcast(ctx, n.engine, audit.Config{Events: history.Stream}, id, func(l audit.Line) {
				if change == nil {
					f(broadcast.LoggedLine(l))
				} else {
					change(broadcast.LoggedLine(l), f)
				}
			})
		},
	}, id)
}

// newAudited returns a broadcast to 20 lines that is recalled: line 3 is invalid, line 7 a duplicate, and
// line 10 unregistered.
func newAudited(t *testing.T, cfg nodeConfig) (n *testNode, id string) {
	n = newTestNode(t, cfg)
	n.sender.answer = func(n *push.Notification) push.Outcome {
		if n.Token == "000010" {
			return push.Outcome{Verdict: push.Unregistered, Reason: "UNREGISTERED"}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	text := strings.Replace(strings.Replace(lines(20), "000003", "bad", 1), "000007", "000001", 1)
	id = n.create(simple, text)
	if _, err := n.audit(t.Context(), id, nil); err == nil {
		t.Error("a broadcast that is not validated was audited")
	}
	n.start(id)
	n.waitState(id, broadcast.Completed)
	n.do(id, broadcast.Recall)
	n.waitState(id, broadcast.Recalled)
	return n, id
}

func TestAuditOfBroadcast(t *testing.T) {
	n, id := newAudited(t, nodeConfig{})
	got, err := n.audit(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	v := n.get(id)
	same := fmt.Sprint(*got.Counts, *got.RecallCounts) == fmt.Sprint(*v.Counts, *v.RecallCounts)
	if !got.Clean() || !same || got.Lines != 20 || got.Valid != 18 || got.Invalid != 1 || got.Duplicates != 1 || got.Counts.Accepted != 17 || got.RecallCounts.Total != 17 || got.ComparedWith != "the stored results" {
		t.Errorf("%+v, counts %+v", got, got.Counts)
	}
	for _, other := range []string{"", "x", "01a22d66-c53c-8acb-97c2-7d90ad8c5c00"} {
		if _, err := n.audit(t.Context(), other, nil); !errors.Is(err, broadcast.ErrNotFound) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func TestAuditOfPausedBroadcast(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(`{"message": {"title": "Hello"}, "audience": {"platform": "fcm"}, "canary": {"share": "25%", "wait": "1h"}}`, lines(20))
	n.start(id)
	testwait.Until(t, func() bool { return n.sender.attempts() == 5 }, "the canary is sent")
	n.do(id, broadcast.Pause)
	got, err := n.audit(t.Context(), id, nil)
	if err != nil || !got.Clean() || got.ComparedWith != "the state of the queue" || got.Counts.Pending != 15 || got.State != broadcast.Paused {
		t.Errorf("%+v %v", got, err)
	}
}

// TestAuditFindsTamperedData changes what the log says about a line in each way that the audit must find.
func TestAuditFindsTamperedData(t *testing.T) {
	n, id := newAudited(t, nodeConfig{})
	const line = 5
	other := func(l broadcast.LoggedLine, number uint32) broadcast.LoggedLine {
		l.Line = number
		return l
	}
	for name, tt := range map[string]struct {
		recall bool
		change func(broadcast.LoggedLine, func(broadcast.LoggedLine))
		rule   string
		line   uint32
	}{
		"removed":          {false, func(broadcast.LoggedLine, func(broadcast.LoggedLine)) {}, "the result in the log is that", line},
		"repeated":         {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { f(l); f(l) }, "a line has at most one", line},
		"not in audience":  {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { f(l); f(other(l, 21)) }, "only valid lines", 21},
		"to a duplicate":   {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { f(l); f(other(l, 7)) }, "only valid lines", 7},
		"two ends":         {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { l.Twice = true; f(l) }, "a notification has at most one end", line},
		"lost":             {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { l.Lost = true; f(l) }, "has an end or is waiting", line},
		"other status":     {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { l.Status = push.StatusUnknown; f(l) }, "the result in the log is that", line},
		"other platform":   {false, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { l.Platform = push.APNs; f(l) }, "the result in the log is that", line},
		"not recalled":     {true, func(broadcast.LoggedLine, func(broadcast.LoggedLine)) {}, "all lines that are accepted", line},
		"recalled wrongly": {true, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) { f(l); f(other(l, 10)) }, "only lines that are accepted", 10},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := n.audit(t.Context(), id, func(l broadcast.LoggedLine, f func(broadcast.LoggedLine)) {
				if l.Line == line && l.Recall == tt.recall {
					tt.change(l, f)
				} else {
					f(l)
				}
			})
			if err != nil || !slices.ContainsFunc(got.Findings, func(f broadcast.AuditFinding) bool {
				return strings.Contains(f.Rule, tt.rule) && f.Count == 1 && slices.Equal(f.Lines, []uint32{tt.line})
			}) {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

// TestAuditFindsTamperedLog adds records to the stored log, and removes a message of it. The log is not
// encrypted, because the server lets no message of an encrypted one be deleted.
func TestAuditFindsTamperedLog(t *testing.T) {
	n, id := newAudited(t, nodeConfig{keys: keyring.NewRing(false)})
	end := func(line uint32, verdict push.Verdict) {
		l := push.BroadcastLine{Broadcast: uuid.MustParse(id), Line: line}
		r := push.Receipt{ID: uuid.UUID(l.ID()).String(), Outcome: push.Outcome{Verdict: verdict, Reason: "Tampered"}}
		if _, err := n.history.Append(t.Context(), push.Event{ID: r.ID, App: app, At: time.Now(), Status: r.Status(), Platform: push.FCM, Receipt: &r}); err != nil {
			t.Fatal(err)
		}
	}
	end(4, push.Refused)   // it was accepted
	end(21, push.Accepted) // not in the audience
	stream, err := n.engine.JetStream().Stream(t.Context(), history.Stream)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"not true for 1 lines: a notification has at most one end: [4]",
		"not true for 1 lines: only valid lines have a notification: [21]",
	}
	got, err := n.audit(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range want {
		if !strings.Contains(fmt.Sprint(got.Findings), finding) {
			t.Errorf("%q is missing: %v", finding, got.Findings)
		}
	}
	first := true
	for seq := range stream.CachedInfo().State.LastSeq { // all but the start
		if m, err := stream.GetMsg(t.Context(), seq+1); err == nil {
			if !first {
				if err := stream.DeleteMsg(t.Context(), m.Sequence); err != nil {
					t.Fatal(err)
				}
			}
			first = false
		}
	}
	got, err = n.audit(t.Context(), id, nil)
	if err != nil || got.Counts.Pending != 18 || !strings.Contains(fmt.Sprint(got.Findings), "not true for 18 lines: the result in the log is that in the counts: [1 2 4 5 6 8") {
		t.Errorf("%+v %v", got, err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.audit(t.Context(), id, nil); err == nil || !strings.Contains(err.Error(), "start of the broadcast") {
		t.Error(err)
	}
}
