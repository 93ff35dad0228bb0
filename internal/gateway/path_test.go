// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// TestDocumentedPathOfCall compares the functions that docs/design.md lists for a single call with the
// stack of one that waits for its response.
func TestDocumentedPathOfCall(t *testing.T) {
	r := newShopGateway(t, slowAPNs(2*time.Second), "")
	disconnect := r.startRequest("", "application/json", apnsNotification(deviceToken))
	defer disconnect()
	testwait.Until(t, func() bool { return r.inFlight() == 1 }, "the call is in flight")
	var got []string
	testwait.Until(t, func() bool { got = stackOf("wire.(*Conn).Do"); return got != nil }, "the call waits for its response")
	if want := documentedPath(t); !slices.Equal(got, want) {
		t.Errorf("stack:\n  %s\ndocs/design.md:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	if len(got) > 11 {
		t.Errorf("a call passes %d functions", len(got))
	}
}

// functionLiteral matches what the stack adds to the name of a function for a literal in it, and the
// function into which that one was inlined.
var functionLiteral = regexp.MustCompile(`Route\.send\.|\.func\d+$`)

// stackOf returns the functions of this module that the goroutine with innermost has called since the
// handler of the API, as package.Type.function, the outermost first.
func stackOf(innermost string) (functions []string) {
	text := make([]byte, 4<<20)
	text = text[:runtime.Stack(text, true)]
	name := regexp.MustCompile(`(?m)^github\.com/sluice-push/sluice/(?:internal/)?(\S+)\(`)
	for goroutine := range strings.SplitSeq(string(text), "\n\n") {
		if !strings.Contains(goroutine, innermost) {
			continue
		}
		for _, match := range name.FindAllStringSubmatch(goroutine, -1) {
			function := functionLiteral.ReplaceAllString(strings.NewReplacer("(*", "", ")", "").Replace(match[1]), "")
			functions = append(functions, function)
			if function == "api.server.send" {
				slices.Reverse(functions)
				return functions
			}
		}
	}
	return nil
}

// documentedPath reads the first block of docs/design.md. Indented lines are calls that have returned.
func documentedPath(t *testing.T) (functions []string) {
	text, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n    internal/api ")
	block, _, _ = strings.Cut("    internal/api "+block, "\n\n")
	pkg := ""
	for line := range strings.SplitSeq(block, "\n") {
		if folder := strings.TrimSpace(line[:min(23, len(line))]); folder != "" {
			pkg = folder[strings.LastIndex(folder, "/")+1:]
		}
		if len(line) > 23 && line[23] != ' ' {
			function, _, _ := strings.Cut(line[23:], " ")
			if pkg == "api" {
				function = "server." + function
			}
			functions = append(functions, pkg+"."+function)
		}
	}
	return functions
}

// TestStackOfCall checks that the handler of a call that waits for the provider has a stack of 8 KiB,
// and not of 16, the next size. What remains is the stack of the goroutine that waits for the client
// to disconnect.
func TestStackOfCall(t *testing.T) {
	const calls = 200
	r := newShopGateway(t, mockprovider.Config{}, "")
	before := stackMemory()
	body := apnsNotification(deviceToken)
	request := fmt.Appendf(nil, "POST /v1/apps/shop/notifications HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", r.key, len(body), body)
	var conns []net.Conn
	for range calls {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write(request)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response, err)
		}
		conns = append(conns, conn)
	}
	if err := r.mock.SetScript(slowAPNs(time.Minute).Script); err != nil {
		t.Fatal(err)
	}
	for _, conn := range conns {
		_, _ = conn.Write(request)
	}
	waiting := func() (n int) {
		for _, s := range r.gw.Status().Services {
			n += s.Pool.InFlight + s.Pool.Waiting
		}
		return n
	}
	testwait.Until(t, func() bool { return waiting() == calls }, "the calls wait for their responses or for a lease")
	each := (stackMemory() - before) / calls
	t.Logf("each call in flight has %d bytes of stacks", each)
	if each > 16<<10 && !raceEnabled { // the race detector enlarges frames
		t.Error("the frames of a call exceed 8 KiB: pass large structs by address")
	}
}

// stackMemory returns the memory of all stacks, after those that can be smaller have shrunk.
func stackMemory() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.StackInuse)
}
