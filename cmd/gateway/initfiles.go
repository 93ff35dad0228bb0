// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	default:
		line("# Holds device tokens and texts: keep it on a private disk that survives a restart. Needs up to")
		line("# 15 GiB with the default limits (queue.max_bytes, history.max_bytes).")
		line("queue: { dir: %s }", quote(c.queueDir()))
	}
	line("\n# Keep delay plus grace below the termination grace period of your platform.")
	line("drain: { delay: 0s, grace: 30s }   # delay: a little above the time your load balancer needs to notice")
	line("log: { level: info, format: auto }")
	return b.String()
}

func (c *initCmd) queueDir() string {
	switch {
	case c.QueueDir != "":
		return c.path(c.QueueDir)
	case c.Systemd:
		return "/var/lib/sluice/queue"
	}
	return "queue"
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

// unit returns the unit for systemd, for this binary and configuration.
func (c *initCmd) unit() string {
	binary, err := os.Executable()
	if err != nil {
		binary = "/usr/bin/gateway"
	}
	return strings.Replace(unitFile, "/usr/bin/gateway serve -c /etc/sluice/gateway.yaml", fmt.Sprintf("%s serve -c %s", binary, filepath.Join(c.Dir, "gateway.yaml")), 1)
}

// values returns the values for the Helm chart. The credential files are in a secret.
func (c *initCmd) values(hash string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	secret, folder := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(c.App))+"-push", strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(c.App))
	line("# Values of the Helm chart deploy/helm/sluice. Create the secret with the credential files first:")
	line("#")
	line("#   kubectl create secret generic %s%s", secret, c.secretFiles())
	line("replicas: 1")
	line("credentials:\n  - name: %s\n    secretName: %s", folder, secret)
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
		line("tls:\n  secretName: %s-tls   # with tls.crt and tls.key, as cert-manager writes it", folder)
	}
	line("config:\n  apps:")
	c.appendApp(&b, "    ", hash, func(file string) string { return "/etc/sluice/credentials/" + folder + "/" + filepath.Base(file) })
	return b.String()
}

// secretFiles returns the flags of kubectl for the credential files.
func (c *initCmd) secretFiles() (flags string) {
	files := []string{c.APNsKeyFile, c.APNsCertFile, c.APNsCertKeyFile, c.FCMFile, c.VAPIDFile}
	if c.hasWebPush() && c.VAPIDFile == "" {
		files = append(files, filepath.Join(c.Dir, "vapid.pem"))
	}
	for _, file := range files {
		if file != "" {
			flags += " --from-file=" + file
		}
	}
	return flags
}
