// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/testwait"
)

// TestManyInvalidLines validates an audience without a line that can be sent, with more than fits into one
// message.
func TestManyInvalidLines(t *testing.T) {
	n := newTestNode(t, nodeConfig{})
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "{\"token\":\"%06d\",\"x%d\":1}\n", i, i)
	}
	id := n.create(simple, text.String())
	n.do(id, broadcast.Validate)
	testwait.Until(t, func() bool { return n.get(id).Problem != "" }, "the validation has failed")
	if v := n.get(id); v.State != broadcast.Draft || !strings.Contains(v.Problem, "line 1: x0: unknown field") {
		t.Errorf("%s: %s", v.State, v.Problem)
	}
	page, err := n.Invalid(t.Context(), app, id, 19_990, 100)
	if err != nil || len(page.Lines) != 10 || page.Lines[9].Reason != "UnknownField" {
		t.Errorf("%+v, %v", page, err)
	}
}
