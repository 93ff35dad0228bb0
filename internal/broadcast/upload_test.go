// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
)

// TestCompleteUploadIsNotContinued continues an upload that is complete and validated.
func TestCompleteUploadIsNotContinued(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	text := strings.TrimSuffix(lines(3), "\n")
	id := n.create(simple, text)
	n.do(id, broadcast.Validate)
	before := n.waitState(id, broadcast.Ready)
	_, _, err := n.Upload(t.Context(), app, id, broadcast.UploadRequest{Offset: int64(len(text))}, strings.NewReader("\n{\"token\":\"000004\"}\n"))
	if _, ok := errors.AsType[*broadcast.ConflictError](err); !ok {
		t.Errorf("%v, want a conflict", err)
	}
	if _, _, err := n.Upload(t.Context(), app, id, broadcast.UploadRequest{Offset: int64(len(text))}, strings.NewReader("")); err != nil {
		t.Errorf("the repeated end: %v", err)
	}
	if got := len(n.results(id)); got != 3 || n.get(id).Revision != before.Revision {
		t.Errorf("%d lines, want 3", got)
	}
}

// TestIncompleteAudienceIsNotRead deletes the last message of an audience, as if a server of a cluster did not
// have it yet.
func TestIncompleteAudienceIsNotRead(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	id := n.create(simple, lines(20_000))
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	s, err := n.engine.JetStream().Stream(t.Context(), broadcast.Stream)
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.GetLastMsgForSubject(t.Context(), "sluice.broadcast."+id+".audience")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), last.Sequence); err != nil {
		t.Fatal(err)
	}
	if err := n.WriteResults(t.Context(), app, id, audience.NDJSON, io.Discard); err == nil {
		t.Error("the results of a part of the audience are exported as the whole")
	}
}

// TestUploadWithTooManyLines uploads lines of any kind beyond the maximum.
func TestUploadWithTooManyLines(t *testing.T) {
	n := newTestNode(t, nodeConfig{change: func(c *broadcast.Config) { c.MaxLines = 3 }})
	id := n.create(simple, "")
	for text, want := range map[string]error{"\n\n\n": nil, "x\nx\nx": nil, "\n\n\n\n": broadcast.ErrUploadTooLarge, "x\nx\nx\nx": broadcast.ErrUploadTooLarge} {
		u := broadcast.UploadRequest{Format: audience.NDJSON, Replace: true}
		if _, _, err := n.Upload(t.Context(), app, id, u, strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
