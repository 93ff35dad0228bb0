// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
)

// validated creates and validates a broadcast.
func (n *testNode) validated(text, audienceText string) (id string) {
	n.t.Helper()
	id = n.create(text, audienceText)
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	return id
}

// devices returns the unique devices of broadcasts.
func (n *testNode) devices(ids ...string) *broadcast.Devices {
	n.t.Helper()
	found, err := n.Devices(n.t.Context(), app, ids)
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

func TestUniqueDevicesOfBroadcasts(t *testing.T) {
	const count, named = 3000, `{"name": "Whole", `
	dir, all := t.TempDir(), strings.SplitAfter(lines(count), "\n")
	n := newTestNode(t, nodeConfig{dir: dir})
	whole := n.validated(strings.Replace(simple, "{", named, 1), strings.Join(all, ""))
	first := n.validated(simple, strings.Join(all[:2000], "")+all[0]+"{\"token\":\"bad\"}\nnonsense\n")
	last := n.validated(simple, strings.Join(all[1000:], ""))
	merged, want := n.devices(first, last, first), n.devices(whole)
	if merged.Unique != want.Unique || len(merged.Broadcasts) != 2 || len(want.Broadcasts) != 1 || want.Broadcasts[0] != (broadcast.AudienceDevices{ID: whole, Name: "Whole", Unique: want.Unique}) {
		t.Errorf("merged %+v, whole %+v", merged, want)
	}
	for i, estimated := range []uint64{want.Unique, merged.Broadcasts[0].Unique, merged.Broadcasts[1].Unique} {
		devices := [...]float64{count, 2000, 2000}[i]
		if math.Abs(float64(estimated)-devices) > 3*merged.StandardError*devices {
			t.Errorf("%v devices are estimated as %d", devices, estimated)
		}
	}
	if v := n.get(whole).Validation; v.Devices != want.Unique {
		t.Errorf("the validation found %d, want %d", v.Devices, want.Unique)
	}
	n.do(last, broadcast.Start)
	n.waitState(last, broadcast.Completed)
	n.stop()

	n = newTestNode(t, nodeConfig{dir: dir})
	if diff := cmp.Diff(merged, n.devices(first, last)); diff != "" {
		t.Errorf("after the restart: %s", diff)
	}
	n.upload(first, lines(1000)) // an upload replaces the audience
	if _, err := n.Devices(t.Context(), app, []string{last, first}); !isConflict(err) {
		t.Errorf("a new audience is not validated: %v", err)
	}
	n.do(first, broadcast.Validate)
	n.waitState(first, broadcast.Ready)
	if found := n.devices(first); found.Unique < 976 || found.Unique > 1024 {
		t.Errorf("%d devices, want 1000", found.Unique)
	}
}

func isConflict(err error) bool {
	_, ok := errors.AsType[*broadcast.ConflictError](err)
	return ok
}

func TestUniqueDevicesOfOtherBroadcasts(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	good := n.validated(simple, lines(10))
	topic := n.validated(`{"message": {"title": "Hello"}, "audience": {"topic": "news"}}`, "")
	if v := n.get(topic).Validation; v.Valid != 1 || v.Devices != 0 {
		t.Errorf("%+v, want no number of devices of a topic", v)
	}
	deleted := n.validated(simple, lines(10))
	if err := n.Delete(t.Context(), app, deleted, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		app, id string
		want    error // nil for a conflict
	}{
		{"other", good, broadcast.ErrNotFound},
		{app, deleted, broadcast.ErrNotFound},
		{app, "nonsense", broadcast.ErrNotFound},
		{app, topic, broadcast.ErrNoUpload},
		{app, n.create(simple, lines(10)), nil},
	} {
		ids := []string{good, c.id}
		if c.app != app { // the first one is not found, too
			ids = ids[1:]
		}
		_, err := n.Devices(t.Context(), c.app, ids)
		item, ok := errors.AsType[*broadcast.ItemError](err)
		if !ok || item.Index != len(ids)-1 || c.want != nil && !errors.Is(err, c.want) || c.want == nil && !isConflict(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if found := n.devices(good); found.Unique != 10 || found.StandardError != audience.SketchError {
		t.Errorf("%+v", found)
	}
}
