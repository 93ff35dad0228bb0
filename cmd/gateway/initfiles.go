// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/sluice-push/sluice/providers/webpush"
)

// newVAPIDFile returns a new key pair in the form of gateway key vapid.
func newVAPIDFile() (string, error) {
	key, err := webpush.NewKey()
	if err != nil {
		return "", err
	}
	text, err := key.PEM()
	return fmt.Sprintf("public   %s\n%s", key.Public(), text), err
}

// path returns how the configuration refers to a file of the user: a relative path starts at the folder
// of the configuration there, and at the working directory on the command line.
func (c *initCmd) path(file string) string {
	absolute, err := filepath.Abs(file)
	if err != nil {
		return file
	}
	if below, err := filepath.Rel(c.Dir, absolute); err == nil && filepath.IsLocal(below) {
		return below
	}
	return absolute
}

// quote returns a text as a YAML string.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// config returns the configuration file.
func (c *initCmd) config(hash string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Configuration of Sluice. All keys: docs/reference/configuration.md, or gateway schema --markdown.")
	line("# A running gateway reloads this file and the files that it names when they change.\n")
	line("# Address of the API. With TLS or behind a proxy, 0.0.0.0:8080 accepts other machines too.")
	line("listen: %s", quote(c.Listen))
	line("admin: { listen: 127.0.0.1:9090 }   # /metrics, /v1/status and the console; needs no key, so keep it private")
	if c.TLSCertFile != "" {
		line("tls:                      # reloaded when it is renewed")
		line("  cert_file: %s", quote(c.path(c.TLSCertFile)))
		line("  key_file: %s", quote(c.path(c.TLSKeyFile)))
	}
	line("\napps:")
	c.appendApp(&b, "  ", hash, c.path)
	line("")
	switch c.Queue {
	case "none":
		line("# Without a queue, asynchronous calls, schedules, the history and webhooks are refused.")
		line("# queue: { dir: queue }")
	case "nats":
		line("# Gateways with the same cluster share the queue, the history and the quotas.")
		line("queue:\n  nats:\n    url: %s", quote(c.NATSURL))
		line("    # credentials_file: nats.creds")
		c.appendEncryption(&b, "  ", c.path)
		line("# The index, and the name of this gateway in the cluster: keep it across restarts.")
		line("history: { dir: %s }", quote(c.stateDir("history")))
	default:
		line("# Holds device tokens and texts: keep it on a private disk that survives a restart. Needs up to")
		line("# 15 GiB with the default limits (queue.max_bytes, history.max_bytes).")
		if dir := quote(c.queueDir()); c.encrypts() {
			line("queue:\n  dir: %s", dir)
			c.appendEncryption(&b, "  ", c.path)
		} else {
			line("queue: { dir: %s }", dir)
		}
	}
	line("\n# Keep delay plus grace below the termination grace period of your platform.")
	line("drain: { delay: 0s, grace: 30s }   # delay: a little above the time your load balancer needs to notice")
	line("log: { level: info, format: auto }")
	return b.String()
}

func (c *initCmd) queueDir() string {
	if c.QueueDir != "" {
		return c.path(c.QueueDir)
	}
	return c.stateDir("queue")
}

// stateDir returns the folder with a name for what the gateway stores.
func (c *initCmd) stateDir(name string) string {
	if c.Systemd {
		return "/var/lib/sluice/" + name
	}
	return name
}

// encryptionKeyFile returns the file of the key that encrypts, which may not exist yet.
func (c *initCmd) encryptionKeyFile() string {
	return cmp.Or(c.KeyFile, filepath.Join(c.Dir, encryptionKeyName))
}

// appendEncryption appends the block queue.encryption, if there is a key. path returns how it refers to a
// file.
func (c *initCmd) appendEncryption(b *strings.Builder, indent string, path func(string) string) {
	if c.encrypts() {
		fmt.Fprintf(b, "%sencryption: { key_files: [%s] }   # back it up: without it, what is stored cannot be read\n", indent, quote(path(c.encryptionKeyFile())))
	}
}

// appendApp appends the block of the app. path returns how it refers to a file.
func (c *initCmd) appendApp(b *strings.Builder, indent, hash string, path func(string) string) {
	line := func(format string, args ...any) { fmt.Fprintf(b, indent+format+"\n", args...) }
	line("%s:", quote(c.App))
	line("  keys:")
	line("    - name: init          # in logs and metrics; give each caller a key of its own (gateway key)")
	line("      hash: %q", hash)
	line("      scopes: [send, read]")
	if c.hasAPNs() {
		line("  apns:")
		if c.APNsCertFile != "" {
			line("    cert_file: %s", quote(path(c.APNsCertFile)))
			line("    cert_key_file: %s", quote(path(c.APNsCertKeyFile)))
		} else {
			line("    key_file: %s", quote(path(c.APNsKeyFile)))
			line("    key_id: %s", quote(c.APNsKeyID))
			line("    team_id: %s", quote(c.APNsTeamID))
		}
		if c.APNsTopic != "" {
			line("    topic: %s", quote(c.APNsTopic))
		}
		environment := "production"
		if c.APNsSandbox {
			environment = "sandbox"
		}
		line("    environment: %s   # of notifications that name none", environment)
	}
	if c.FCMFile != "" {
		line("  fcm:")
		line("    service_account_file: %s", quote(path(c.FCMFile)))
	}
	if c.hasWebPush() {
		vapid := filepath.Join(c.Dir, "vapid.pem")
		if c.VAPIDFile != "" {
			vapid = c.VAPIDFile
		}
		line("  webpush:")
		line("    vapid_key_file: %s   # back it up: without it, all subscriptions are lost", quote(path(vapid)))
		line("    subject: %s", quote(c.Subject))
	}
}

// unit returns the unit for systemd, for this binary, configuration and queue.
func (c *initCmd) unit() string {
	binary, err := os.Executable()
	if err != nil {
		binary = "/usr/bin/gateway"
	}
	unit := strings.Replace(unitFile, "/usr/bin/gateway serve -c /etc/sluice/gateway.yaml", unitWord(binary)+" serve -c "+unitWord(filepath.Join(c.Dir, "gateway.yaml")), 1)
	if dir := c.writableDir(); dir != "" {
		unit = strings.Replace(unit, "ProtectSystem=strict\n", "ProtectSystem=strict\nReadWritePaths="+unitWord(dir)+"\n", 1)
	}
	return unit
}

// unitWord returns a text as a word of a unit, in which systemd replaces nothing.
func unitWord(text string) string {
	text = strings.NewReplacer("%", "%%", "$", "$$").Replace(text)
	if strings.ContainsAny(text, " \t\"'\\;") {
		text = strconv.Quote(text)
	}
	return text
}

// writableDir returns the folder of the queue if the unit must be allowed to write to it.
func (c *initCmd) writableDir() string {
	if c.QueueDir == "" || c.Queue == "none" || c.Queue == "nats" {
		return ""
	}
	dir, err := filepath.Abs(c.QueueDir)
	if below, relErr := filepath.Rel("/var/lib/sluice", dir); err != nil || relErr == nil && filepath.IsLocal(below) {
		return ""
	}
	return dir
}

// hiddenFromUnit returns the files and folders of the configuration that the unit hides from the gateway:
// those in /home, /root, /run/user (ProtectHome) and /tmp, /var/tmp (PrivateTmp).
func (c *initCmd) hiddenFromUnit() (hidden []string) {
	for _, file := range append(c.credentialFiles(), c.TLSCertFile, c.TLSKeyFile, c.Dir, c.writableDir()) {
		path := c.path(file)
		if file == c.Dir {
			path = c.Dir
		}
		if file != "" && slices.ContainsFunc([]string{"/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/"}, func(dir string) bool { return strings.HasPrefix(path+"/", dir) }) {
			hidden = append(hidden, path)
		}
	}
	return hidden
}

// values returns the values for the Helm chart. The credential files are in a secret.
func (c *initCmd) values(hash string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	name := c.secretName()
	inPod := func(file string) string { return "/etc/sluice/credentials/" + name + "/" + filepath.Base(file) }
	line("# Values of the Helm chart deploy/helm/sluice. Create the secret with the credential files first:")
	line("#")
	line("#   kubectl create secret generic %s-push%s", name, c.secretFiles())
	line("#")
	line("# image: { repository: registry.example/sluice }   # where you have pushed the image of the release")
	if c.Queue == "nats" {
		line("replicas: 3")
	} else {
		line("replicas: 1")
	}
	line("credentials:\n  - name: %s\n    secretName: %s-push", name, name)
	line("queue:")
	switch c.Queue {
	case "none":
		line("  mode: none")
	case "nats":
		line("  mode: nats\n  nats:\n    url: %s", quote(c.NATSURL))
	default:
		line("  mode: embedded")
	}
	if c.TLSCertFile != "" {
		line("tls:\n  secretName: %s-tls   # with tls.crt and tls.key, as cert-manager writes it", name)
	}
	line("config:")
	if c.encrypts() {
		line("  queue:")
		c.appendEncryption(&b, "    ", inPod)
	}
	line("  apps:")
	c.appendApp(&b, "    ", hash, inPod)
	return b.String()
}

// secretName returns the name of the app as a name in Kubernetes, which has lower-case letters, digits and
// dashes, and at most 42 characters.
func (c *initCmd) secretName() string {
	name := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(c.App))
	return strings.TrimRight(name[:min(len(name), 42)], "-")
}

// credentialFiles returns the credential files of the app and the encryption key.
func (c *initCmd) credentialFiles() (files []string) {
	candidates := []string{c.APNsKeyFile, c.APNsCertFile, c.APNsCertKeyFile, c.FCMFile, c.VAPIDFile}
	if c.hasWebPush() && c.VAPIDFile == "" {
		candidates = append(candidates, filepath.Join(c.Dir, "vapid.pem"))
	}
	if c.encrypts() {
		candidates = append(candidates, c.encryptionKeyFile())
	}
	return slices.DeleteFunc(candidates, func(file string) bool { return file == "" })
}

// secretFiles returns the flags of kubectl for the credential files.
func (c *initCmd) secretFiles() (flags string) {
	for _, file := range c.credentialFiles() {
		flags += " --from-file=" + shellWord(file)
	}
	return flags
}

// shellWord returns a text as a word for a shell.
func shellWord(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("-_./+=:,@", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}

var secretFileName = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)

// checkSecretFiles returns an error if the credential files cannot be in one secret under their names.
func (c *initCmd) checkSecretFiles() error {
	seen := map[string]bool{}
	for _, file := range c.credentialFiles() {
		name := filepath.Base(file)
		switch {
		case !secretFileName.MatchString(name):
			return fmt.Errorf("init: --helm: %q must have a name of letters, digits, dots, dashes and underscores, as it is a file of a Kubernetes secret", file)
		case seen[name]:
			return fmt.Errorf("init: --helm: two credential files are named %q: rename one, as they are files of one Kubernetes secret", name)
		}
		seen[name] = true
	}
	return nil
}
