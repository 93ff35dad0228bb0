// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

var pasted = regexp.MustCompile(`(?m)^    curl -sS (.*\\\n)+.*$`)

func TestDevServesAndItsCurlLineWorksAsPasted(t *testing.T) {
	p, ready := develop(t)
	p.eventually("curl line", func() bool { return pasted.MatchString(p.stdout.String()) })
	answer := paste(t, pasted.FindString(p.stdout.String()), ready)
	if !strings.Contains(answer, `"status":"accepted"`) || !strings.Contains(answer, `"attempts":[{"endpoint":"127.0.0.1:`) {
		t.Errorf("answer: %s", answer)
	}
	folder := filepath.Dir(ready["ca_file"].(string))
	p.terminate()
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", folder, err)
	}
}

// paste runs a line as a shell does. Where there is no curl it makes the same request.
func paste(t *testing.T, line string, ready map[string]any) string {
	t.Helper()
	if _, err := exec.LookPath("curl"); err == nil {
		answer, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s\n%s", err, answer, line)
		}
		return string(answer)
	}
	for _, part := range []string{ready["url"].(string) + "/v1/apps/demo/notifications", ready["key"].(string), device} {
		if !strings.Contains(line, part) {
			t.Errorf("%q is not in %s", part, line)
		}
	}
	_, answer, err := post(ready)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestTheReadyFileHoldsAllThatScriptsNeed(t *testing.T) {
	p, ready := develop(t)
	for _, key := range []string{
		"url", "admin_url", "key", "app", "apns", "apns_endpoints", "apns_key_file", "apns_key_id", "apns_team_id", "apns_topic",
		"fcm", "token_url", "project_id", "service_account_file", "webpush", "ledger", "ca_file",
	} {
		if value, found := ready[key]; !found || value == "" {
			t.Errorf("%s is %v", key, value)
		}
	}
	for _, key := range []string{"apns_key_file", "service_account_file", "ca_file"} {
		if info, err := os.Stat(ready[key].(string)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", key, info, err)
		}
	}
	if n := len(ready["apns_endpoints"].([]any)); n != 8 {
		t.Errorf("%d endpoints of APNs", n)
	}
	p.terminate()
}

func TestDevKeepsWhatNobodyWaitsFor(t *testing.T) {
	p, ready := develop(t)
	file := write(t, "campaign.ndjson", strings.Repeat(fmt.Sprintf("{\"platform\":\"apns\",\"token\":%q,\"title\":\"Hi\"}\n", device), 100))
	code, _, stderr := finish(t, []string{"GATEWAY_URL=" + ready["url"].(string), "GATEWAY_KEY=" + ready["key"].(string)}, "send", "--app", "demo", "--file", file)
	if code != 0 || !strings.Contains(stderr, "100 queued") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	p.terminate()
}

func TestDevPlaysAFaultAndTheRoadGoesRoundIt(t *testing.T) {
	p, ready := develop(t, "--fault", write(t, "fault.yaml", `faults: [ { service: apns, endpoint: "0", status: 500 } ]`))
	p.eventually("a notification that met the fault", func() bool {
		status, answer, err := post(ready)
		if err != nil || status != 200 || !strings.Contains(answer, `"status":"accepted"`) {
			t.Errorf("%d %s %v", status, answer, err)
		}
		return strings.Contains(answer, `"reason":"InternalServerError"`)
	})
	p.terminate()
}

func TestDevTakesAnotherAdminAddressWhereTheUsualIsTaken(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.1:9090"); err == nil {
		defer l.Close()
	}
	path := filepath.Join(t.TempDir(), "ready.json")
	p := start(t, nil, "dev", "--listen", own, "--ready-file", path)
	ready := p.readyFile(path)
	if ready["url"] != "http://"+own || ready["admin_url"] == "http://127.0.0.1:9090" {
		t.Errorf("url %v, admin_url %v", ready["url"], ready["admin_url"])
	}
	p.eventually("word about it", func() bool { return strings.Contains(p.stdout.String(), "(127.0.0.1:9090 is taken)") })
	p.terminate()
}

// own is an address that the system gives to nobody who lets it choose, and that no other process that runs these tests
// takes.
var own = fmt.Sprint("127.0.0.1:", 20_000+os.Getpid()%10_000)

// laggard is a fault that keeps every notification in flight for a while.
const laggard = `faults: [ { service: apns, delay: 700ms } ]`

func TestSIGTERMCutsNoAcceptedRequest(t *testing.T) {
	const n = 200
	p, ready := develop(t, "--fault", write(t, "fault.yaml", laggard))
	var sending sync.WaitGroup
	var answered atomic.Int64
	for range n {
		sending.Go(func() {
			defer answered.Add(1)
			status, answer, err := post(ready)
			if err != nil || status != 200 || !strings.Contains(answer, `"status":"accepted"`) {
				t.Errorf("%d %s %v", status, answer, err)
			}
		})
	}
	p.eventually("notifications in flight", func() bool { return int(answered.Load())+inFlight(ready) >= n })
	p.terminate()
	sending.Wait()
}

func TestASecondSignalEndsTheProcessAtOnce(t *testing.T) {
	p, ready := develop(t, "--fault", write(t, "fault.yaml", `faults: [ { service: apns, drop_response: true } ]`))
	var posting sync.WaitGroup
	posting.Go(func() { // one after the other; their ends are not the matter here
		for running := true; running; {
			_, _, _ = post(ready)
			select {
			case <-p.ended:
				running = false
			default:
			}
		}
	})
	p.eventually("a notification in flight", func() bool { return inFlight(ready) > 0 })
	p.signal(syscall.SIGINT)
	p.signal(syscall.SIGTERM) // of two alike the second can be lost
	if code := p.wait(); code != 1 || !strings.Contains(p.stderr.String(), "ended by a second signal") {
		t.Errorf("exit code %d\n%s", code, p.stderr.String())
	}
	posting.Wait()
}

func TestEveryCommandsHelpShowsAnExampleAndNoneThatIsNotBuilt(t *testing.T) {
	_, help, _ := finish(t, nil, "--help")
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(help, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "audit bench check dev key mock openapi schema send serve version" {
		t.Errorf("commands: %s\n%s", got, help)
	}
	for _, name := range names {
		code, help, stderr := finish(t, nil, name, "--help")
		if code != 0 || stderr != "" || !strings.Contains(help, "gateway "+name) || (!strings.Contains(help, "Example") && name != "version") {
			t.Errorf("%s --help: %d %s\n%s", name, code, stderr, help)
		}
	}
}
