// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/deploy/deploytest"
)

// machine is a container in which systemd is process 1. Its files are those of this machine, with a layer
// above them that is removed at the end, and its network is that of this machine.
type machine struct {
	t      *testing.T
	root   string
	leader string // process ID of systemd
}

// bootMachine boots systemd, without services other than what a package starts.
func bootMachine(t *testing.T) *machine {
	t.Helper()
	for _, program := range []string{"systemd-nspawn", "nsenter", "dpkg"} {
		deploytest.Require(t, program)
	}
	requireRoot(t)
	m := &machine{t: t, root: filepath.Join(t.TempDir(), "root")}
	// The mounts are in a namespace of the script, and end with it. The layer must not be on an overlay.
	const script = `mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
exec systemd-nspawn --quiet --keep-unit --register=no --machine="sluice-$$" --directory="$1/root" --boot systemd.unit=basic.target systemd.mask=timers.target`
	p := deploytest.Start(t, "unshare", "--mount", "sh", "-euc", script, "sh", filepath.Dir(m.root))
	t.Cleanup(func() {
		if t.Failed() && m.leader != "" {
			log, _ := exec.Command("nsenter", m.args("journalctl", "--unit=sluice", "--no-pager", "--lines=50")...).CombinedOutput()
			t.Logf("%s", log)
		}
	})
	children := fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID())
	deploytest.Until(t, func() bool {
		text, _ := os.ReadFile(children) // the process may have ended
		m.leader = strings.TrimSpace(string(text))
		return p.Exited() || m.leader != "" && exec.Command("nsenter", m.args("systemctl", "is-active", "--quiet", "basic.target")...).Run() == nil
	}, "systemd has booted")
	if p.Exited() {
		deploytest.Missing(t, "systemd does not boot in a container: "+p.Output())
	}
	return m
}

func (m *machine) args(args ...string) []string {
	return append([]string{"--target", m.leader, "--mount", "--uts", "--ipc", "--pid", "--root", "--wd=/", "--"}, args...)
}

// try runs a program in the container.
func (m *machine) try(args ...string) (string, error) {
	out, err := exec.CommandContext(m.t.Context(), "nsenter", m.args(args...)...).CombinedOutput()
	return string(out), err
}

// run runs a program in the container, which must succeed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// property returns a property of the unit.
func (m *machine) property(name string) string {
	m.t.Helper()
	return m.run("systemctl", "show", "--value", "--property="+name, "sluice")
}

// url returns the address of the API after so many starts of the gateway.
func (m *machine) url(starts int) string {
	m.t.Helper()
	var log string
	deploytest.Until(m.t, func() bool {
		log = m.run("journalctl", "--unit=sluice", "--output=cat", "--no-pager")
		return strings.Count(log, `"msg":"serving"`) == starts
	}, "the journal has the address of the gateway")
	return deploytest.GatewayURL(log)
}

// TestPackageRunsUnderSystemd installs the package for Debian on a machine with systemd, configures it,
// kills, reloads, upgrades and removes it.
func TestPackageRunsUnderSystemd(t *testing.T) {
	debian := released(t, "*.deb")
	m := bootMachine(t)
	install := func() { m.run("dpkg", "--force-unsafe-io", "--install", "/root/sluice.deb") }
	text, err := os.ReadFile(debian)
	if err == nil {
		err = os.WriteFile("/proc/"+m.leader+"/root/root/sluice.deb", text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	install()

	// Not configured: neither enabled nor started, and the check names what is missing.
	for _, command := range []string{"is-active", "is-enabled"} {
		if out, err := m.try("systemctl", command, "sluice"); err == nil {
			t.Errorf("the unit %s after the installation: %s", command, out)
		}
	}
	if out, err := m.try("runuser", "-u", "sluice", "--", "gateway", "check", "-c", "/etc/sluice/gateway.yaml"); err == nil || !strings.Contains(out, "apps") {
		t.Errorf("the check of the template: %v, %s", err, out)
	}

	// Configured: systemctl start returns when the gateway answers.
	etc := "/proc/" + m.leader + "/root/etc/sluice"
	startMock(t, etc, 0)
	m.run("chown", "-R", "sluice:sluice", "/etc/sluice")
	m.run("systemctl", "enable", "--now", "sluice")
	if text := get(t, m.url(1)+"/livez"); !strings.HasPrefix(text, "200") {
		t.Error(text)
	}
	if text := send(t, m.url(1), ""); !strings.Contains(text, `"status":"accepted"`) {
		t.Error(text)
	}

	// Killed: systemd starts it again.
	killed := m.property("MainPID")
	m.run("kill", "-KILL", killed)
	deploytest.Until(t, func() bool {
		pid := m.property("MainPID") // 0 if it does not run
		return pid != "0" && pid != killed && m.property("ActiveState") == "active"
	}, "systemd has restarted the gateway")
	if text := send(t, m.url(2), "respond-async"); !strings.HasPrefix(text, "202") {
		t.Error(text)
	}

	// Reloaded: the same process has the new configuration.
	pid := m.property("MainPID")
	file := filepath.Join(etc, "gateway.yaml")
	config, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, append(config, "pool: {size: 4}\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.run("systemctl", "reload", "sluice")
	deploytest.Until(t, func() bool {
		return strings.Contains(m.run("journalctl", "--unit=sluice", "--no-pager"), "configuration reloaded")
	}, "the configuration is reloaded")
	if now := m.property("MainPID"); now != pid || m.property("ActiveState") != "active" {
		t.Errorf("process %s after the reload, %s before", now, pid)
	}
	if text := send(t, m.url(2), ""); !strings.Contains(text, `"status":"accepted"`) {
		t.Error(text)
	}

	// Upgraded: restarted with its configuration.
	install()
	if now := m.property("MainPID"); now == pid || m.property("ActiveState") != "active" {
		t.Errorf("process %s after the upgrade, %s before", now, pid)
	}
	if text := send(t, m.url(3), ""); !strings.Contains(text, `"status":"accepted"`) {
		t.Error(text)
	}

	// Removed: stopped, and the queue is still there.
	m.run("dpkg", "--force-unsafe-io", "--remove", "sluice")
	if _, err := m.try("systemctl", "is-active", "sluice"); err == nil {
		t.Error("the gateway runs without its package")
	}
	m.run("test", "-d", "/var/lib/sluice/queue/engine")
	if _, err := m.try("test", "-e", "/usr/bin/gateway"); err == nil {
		t.Error("the program is still there")
	}
}
