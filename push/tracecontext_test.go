// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"strings"
	"testing"

	"github.com/sluice-push/sluice/push"
)

func TestTraceContext(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for flags, sampled := range map[string]bool{"00": false, "01": true, "02": false, "03": true, "0a": false, "ff": true} {
		trace := push.TraceContext{TraceParent: push.ParseTraceParent("00-" + id + "-b7ad6b7169203331-" + flags)}
		if trace.TraceID() != id || trace.Sampled() != sampled {
			t.Errorf("%+v: %s, %t", trace, trace.TraceID(), trace.Sampled())
		}
	}
	if none := (push.TraceContext{}); none.TraceID() != "" || none.Sampled() {
		t.Errorf("%+v", none)
	}
}

func TestParseTraceState(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{nil, ""}, {[]string{"a=1"}, "a=1"}, {[]string{"a=1", "b=2, c=3"}, "a=1,b=2, c=3"},
		{[]string{"a=\x00"}, ""}, {[]string{"a=é"}, ""}, {[]string{strings.Repeat("a", 513)}, ""},
	} {
		if got := push.ParseTraceState(c.lines); got != c.want {
			t.Errorf("%q became %q", c.lines, got)
		}
	}
}
