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

	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/internal/testwait"
)

var curlCommand = regexp.MustCompile(`(?m)^    export SLUICE_KEY=.*\n    curl -sS (.*\\\n)+.*$`)

func TestDevPrintsAWorkingCurlCommand(t *testing.T) {
	p, ready := startDev(t)
	p.eventually("curl line", func() bool { return curlCommand.MatchString(p.stdout.String()) })
	response := runCurl(t, curlCommand.FindString(p.stdout.String()), ready)
	if !strings.Contains(response, `"status":"accepted"`) || !strings.Contains(response, `"attempts":[{"endpoint":"127.0.0.1:`) {
		t.Errorf("response: %s", response)
	}
	dir := filepath.Dir(ready["ca_file"].(string))
	p.terminate()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s was not removed: %v", dir, err)
	}
}

// runCurl runs a command in a shell.
func runCurl(t *testing.T, line string, ready map[string]any) string {
	t.Helper()
	for _, part := range []string{ready["url"].(string) + "/v1/apps/demo/notifications", ready["key"].(string), deviceToken} {
		if !strings.Contains(line, part) {
			t.Errorf("%q is missing in %s", part, line)
		}
	}
	testtool.Require(t, "curl")
	response, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, response, line)
	}
	return string(response)
}

func TestDevReadyFile(t *testing.T) {
	p, ready := startDev(t)
	for _, key := range []string{
		"url", "admin_url", "key", "app", "apns", "apns_endpoints", "apns_key_file", "apns_key_id", "apns_team_id", "apns_topic",
		"fcm", "token_url", "project_id", "service_account_file", "webpush", "ledger", "ca_file",
	} {
		if value, found := ready[key]; !found || value == "" {
			t.Errorf("%s = %v", key, value)
		}
	}
	for _, key := range []string{"apns_key_file", "service_account_file", "ca_file"} {
		if info, err := os.Stat(ready[key].(string)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", key, info, err)
		}
	}
	if n := len(ready["apns_endpoints"].([]any)); n != 8 {
		t.Errorf("%d APNs endpoints, want 8", n)
	}
	p.terminate()
}

func TestDevQueuesAsyncNotifications(t *testing.T) {
	p, ready := startDev(t)
	file := writeTemp(t, "campaign.ndjson", strings.Repeat(fmt.Sprintf("{\"platform\":\"apns\",\"token\":%q,\"title\":\"Hi\"}\n", deviceToken), 100))
	code, _, stderr := runGateway(t, []string{"GATEWAY_URL=" + ready["url"].(string), "GATEWAY_KEY=" + ready["key"].(string)}, "send", "--app", "demo", "--file", file)
	if code != 0 || !strings.Contains(stderr, "100 queued") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	p.terminate()
}

func TestDevRoutesAroundAFault(t *testing.T) {
	p, ready := startDev(t, "--fault", writeTemp(t, "fault.yaml", `faults: [ { service: apns, endpoint: "0", status: 500 } ]`))
	p.eventually("a notification that hits the fault", func() bool {
		status, response, err := post(ready)
		if err != nil || status != 200 || !strings.Contains(response, `"status":"accepted"`) {
			t.Errorf("%d %s %v", status, response, err)
		}
		return strings.Contains(response, `"reason":"InternalServerError"`)
	})
	p.terminate()
}

func TestDevFallsBackToAFreeAdminPort(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.1:9090"); err == nil {
		defer l.Close()
	}
	path := filepath.Join(t.TempDir(), "ready.json")
	p := startGateway(t, nil, "dev", "--listen", ownAddr, "--ready-file", path)
	ready := p.readyFile(path)
	if ready["url"] != "http://"+ownAddr || ready["admin_url"] == "http://127.0.0.1:9090" {
		t.Errorf("url %v, admin_url %v", ready["url"], ready["admin_url"])
	}
	p.eventually("the note in the banner", func() bool { return strings.Contains(p.stdout.String(), "(127.0.0.1:9090 is in use)") })
	p.terminate()
}

// ownAddr is an address outside the range of ephemeral ports. It differs between processes that run
// these tests.
var ownAddr = fmt.Sprint("127.0.0.1:", 20_000+os.Getpid()%10_000)

// delayFault keeps every notification in flight for a while.
const delayFault = `faults: [ { service: apns, delay: 700ms } ]`

func TestSIGTERMDrainsRequestsInFlight(t *testing.T) {
	const n = 200
	p, ready := startDev(t, "--fault", writeTemp(t, "fault.yaml", delayFault))
	var sending sync.WaitGroup
	var answered atomic.Int64
	for range n {
		sending.Go(func() {
			defer answered.Add(1)
			status, response, err := post(ready)
			if err != nil || status != 200 || !strings.Contains(response, `"status":"accepted"`) {
				t.Errorf("%d %s %v", status, response, err)
			}
		})
	}
	p.eventually("notifications in flight", func() bool { return int(answered.Load())+inFlight(ready) >= n })
	p.terminate()
	testwait.Call(t, sending.Wait, "the end of all sends")
}

func TestSecondSignalExitsImmediately(t *testing.T) {
	p, ready := startDev(t, "--fault", writeTemp(t, "fault.yaml", `faults: [ { service: apns, drop_response: true } ]`))
	var posting sync.WaitGroup
	posting.Go(func() { // one after the other; the results do not matter
		for running := true; running; {
			_, _, _ = post(ready)
			select {
			case <-p.Done():
				running = false
			default:
			}
		}
	})
	p.eventually("a notification in flight", func() bool { return inFlight(ready) > 0 })
	p.signal(syscall.SIGINT)
	p.signal(syscall.SIGTERM) // the second of two equal signals can be lost
	if code := p.wait(); code != 1 || !strings.Contains(p.stderr.String(), "ended by a second signal") {
		t.Errorf("exit code %d\n%s", code, p.stderr.String())
	}
	testwait.Call(t, posting.Wait, "the end of the request")
}

func TestCommandHelp(t *testing.T) {
	_, help, _ := runGateway(t, nil, "--help")
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(help, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "audit auditlog bench broadcast check completion dev init key mock openapi schema search send serve stats status top version" {
		t.Errorf("commands: %s\n%s", got, help)
	}
	for _, name := range names {
		code, help, stderr := runGateway(t, nil, name, "--help")
		if code != 0 || stderr != "" || !strings.Contains(help, "gateway "+name) || (!strings.Contains(help, "Example") && name != "version") {
			t.Errorf("%s --help: %d %s\n%s", name, code, stderr, help)
		}
	}
}
