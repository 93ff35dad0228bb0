// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/keyring"
)

// initCmd has a flag for each question. A flag that is not set is asked for on a terminal.
type initCmd struct {
	Dir    string `default:"." placeholder:"DIR" help:"Folder for gateway.yaml and the other files."`
	App    string `help:"Name of the app, as in the URL of its notifications."`
	Listen string `default:"127.0.0.1:8080" help:"Address of the API, or unix:/path."`

	APNsKeyFile     string `name:"apns-key-file" placeholder:"FILE" help:"APNs: the .p8 key from Apple's developer site."`
	APNsKeyID       string `name:"apns-key-id" placeholder:"ID" help:"APNs: ID of the key. The default is the one in the name AuthKey_ID.p8."`
	APNsTeamID      string `name:"apns-team-id" placeholder:"ID" help:"APNs: ID of the team."`
	APNsCertFile    string `name:"apns-cert-file" placeholder:"FILE" help:"APNs: client certificate in PEM, instead of a key."`
	APNsCertKeyFile string `name:"apns-cert-key-file" placeholder:"FILE" help:"APNs: private key of the certificate in PEM."`
	APNsTopic       string `name:"apns-topic" placeholder:"ID" help:"APNs: bundle ID of the app."`
	APNsSandbox     bool   `name:"apns-sandbox" help:"APNs: the app is a development build."`

	FCMFile string `name:"fcm-service-account-file" placeholder:"FILE" help:"FCM: the service account's JSON key from the Firebase console."`

	Subject   string `name:"webpush-subject" placeholder:"URL" help:"Web Push: how push services can contact you, such as mailto:push@example.com. Creates a key pair."`
	VAPIDFile string `name:"vapid-key-file" placeholder:"FILE" help:"Web Push: an existing private key, instead of a new pair."`

	Queue    string `enum:",none,embedded,nats" default:"" help:"Queue for asynchronous notifications: none, embedded (on this machine's disk) or nats (a cluster). The default is embedded."`
	QueueDir string `placeholder:"DIR" help:"Folder of the embedded queue. The default is queue beside gateway.yaml, with --systemd /var/lib/sluice/queue."`
	NATSURL  string `name:"nats-url" placeholder:"URL" help:"URL of the NATS cluster, such as nats://nats.internal:4222."`

	Encrypt bool   `help:"Encrypt what the queue and the history store. Creates a key, sluice.key."`
	KeyFile string `name:"encryption-key-file" placeholder:"FILE" help:"Encrypt with an existing key, such as that of the other gateways of the cluster."`

	TLSCertFile string `name:"tls-cert-file" placeholder:"FILE" help:"Certificate of the API in PEM. Without it, the API speaks plain HTTP."`
	TLSKeyFile  string `name:"tls-key-file" placeholder:"FILE" help:"Private key of the certificate in PEM."`

	Systemd bool `help:"Also write sluice.service, a unit for systemd."`
	Helm    bool `help:"Also write values.yaml for the Helm chart."`
	Yes     bool `help:"Ask nothing: use the flags and the defaults."`
	Force   bool `help:"Overwrite existing files."`
}

// Help returns the description and examples.
func (initCmd) Help() string {
	return `Examples:

    gateway init
    gateway init --yes --dir /etc/sluice --app shop --fcm-service-account-file shop.json --systemd

Writes gateway.yaml, a commented configuration for production, with a new API key: the key is printed once, and the file has its hash. On a terminal it asks for what the flags do not say, and checks each credential file at once. Without a terminal, or with --yes, it uses only the flags. It overwrites nothing without --force, and a key pair for Web Push or a key for the encryption never. Afterwards, run gateway check --deep.`
}

// encryptionKeyName is the file of a new encryption key.
const encryptionKeyName = "sluice.key"

// unitFile is deploy/systemd/sluice.service.
//
//go:embed sluice.service
var unitFile string

// initFile is a file to write.
type initFile struct {
	name string
	text string
	mode os.FileMode
}

// Run asks the questions and writes the files.
func (c initCmd) Run(p process) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return usageError{fmt.Errorf("init: --dir: %w", err)}
	}
	c.Dir = dir
	if c.asks(p) {
		q := &questions{process: p, lines: make(chan string)}
		go q.read()
		if err := c.prompt(q); err != nil {
			return err
		}
	}
	if err := c.missing(); err != nil {
		return usageError{err}
	}
	key, hash := identity.NewKey()
	files, err := c.files(hash)
	if err != nil {
		return err
	}
	if err := c.write(files); err != nil {
		return err
	}
	c.announce(p, files, key)
	return nil
}

// asks reports whether the command has a terminal to ask on.
func (c *initCmd) asks(p process) bool {
	out, ok := p.stdout.(output)
	return ok && !c.Yes && isTerminal(out.Writer) && isTerminal(os.Stdin)
}

func (c *initCmd) hasAPNs() bool    { return c.APNsKeyFile != "" || c.APNsCertFile != "" }
func (c *initCmd) hasWebPush() bool { return c.Subject != "" || c.VAPIDFile != "" }
func (c *initCmd) encrypts() bool   { return c.Encrypt || c.KeyFile != "" }

// missing returns an error that names the flags that are needed and not set.
func (c *initCmd) missing() error {
	var flags []string
	need := func(value, flag string) {
		if value == "" {
			flags = append(flags, flag)
		}
	}
	need(c.App, "--app")
	if !c.hasAPNs() && c.FCMFile == "" && !c.hasWebPush() {
		flags = append(flags, "one of --apns-key-file, --apns-cert-file, --fcm-service-account-file and --webpush-subject")
	}
	if c.APNsKeyFile != "" {
		c.APNsKeyID = cmp.Or(c.APNsKeyID, keyIDOfName(c.APNsKeyFile))
		need(c.APNsKeyID, "--apns-key-id")
		need(c.APNsTeamID, "--apns-team-id")
		need(c.APNsTopic, "--apns-topic")
	}
	if c.APNsCertFile != "" {
		need(c.APNsCertKeyFile, "--apns-cert-key-file")
	}
	if c.VAPIDFile != "" {
		need(c.Subject, "--webpush-subject")
	}
	if c.Queue == "nats" {
		need(c.NATSURL, "--nats-url")
	}
	if c.TLSCertFile != "" || c.TLSKeyFile != "" {
		need(c.TLSCertFile, "--tls-cert-file")
		need(c.TLSKeyFile, "--tls-key-file")
	}
	switch {
	case flags != nil:
		return fmt.Errorf("init: missing flags: %s", strings.Join(flags, ", "))
	case c.encrypts() && c.Queue == "none":
		return errors.New("init: --encrypt and --encryption-key-file need a queue, whose records they encrypt: set --queue to embedded or nats")
	}
	return nil
}

var appleKeyName = regexp.MustCompile(`^AuthKey_([A-Z0-9]{10})\.p8$`)

// keyIDOfName returns the ID in the name that Apple gives the file of a key, or "".
func keyIDOfName(file string) string {
	if m := appleKeyName.FindStringSubmatch(filepath.Base(file)); m != nil {
		return m[1]
	}
	return ""
}

// files returns the files to write, after gateway.New has accepted them. An existing file is an error
// without --force.
func (c *initCmd) files(hash string) (files []initFile, err error) {
	// Existing keys are never replaced: all subscriptions, or all that is stored, would be lost.
	if existing := filepath.Join(c.Dir, "vapid.pem"); c.hasWebPush() && c.VAPIDFile == "" && fileExists(existing) {
		c.VAPIDFile = existing
	}
	if existing := filepath.Join(c.Dir, encryptionKeyName); c.encrypts() && c.KeyFile == "" && fileExists(existing) {
		c.KeyFile = existing
	}
	if c.hasWebPush() && c.VAPIDFile == "" {
		text, err := newVAPIDFile()
		if err != nil {
			return nil, err
		}
		files = append(files, initFile{"vapid.pem", text, 0o600})
	}
	if c.encrypts() && c.KeyFile == "" {
		files = append(files, initFile{encryptionKeyName, keyring.NewKey().Text(), 0o600})
	}
	files = append(files, initFile{"gateway.yaml", c.config(hash), 0o600})
	if c.Systemd {
		files = append(files, initFile{"sluice.service", c.unit(), 0o644})
	}
	if c.Helm {
		if err := c.checkSecretFiles(); err != nil {
			return nil, usageError{err}
		}
		files = append(files, initFile{"values.yaml", c.values(hash), 0o644})
	}
	for _, f := range files {
		if fileExists(filepath.Join(c.Dir, f.name)) && !c.Force {
			return nil, usageError{fmt.Errorf("init: %s exists (use --force to overwrite it, or another --dir)", filepath.Join(c.Dir, f.name))}
		}
	}
	return files, c.verify(hash)
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// verify verifies the configuration, with keys in a temporary folder if there are none yet.
func (c *initCmd) verify(hash string) error {
	draft := *c
	draft.Listen = cmp.Or(draft.Listen, "127.0.0.1:8080")
	dir, err := newTempDir("sluice-init-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if draft.hasWebPush() && draft.VAPIDFile == "" {
		if draft.VAPIDFile, err = writeVAPID(dir); err != nil {
			return err
		}
	}
	if draft.encrypts() && draft.KeyFile == "" {
		draft.KeyFile = filepath.Join(dir, encryptionKeyName)
		if err := atomicfile.Write(draft.KeyFile, []byte(keyring.NewKey().Text())); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	cfg, err := config.Parse(filepath.Join(c.Dir, "gateway.yaml"), []byte(draft.config(hash)), nil)
	if err != nil {
		return usageError{err}
	}
	if _, err := gateway.New(cfg, nil); err != nil {
		return usageError{err}
	}
	return nil
}

func (c *initCmd) write(files []initFile) error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(c.Dir, f.name)
		if err := atomicfile.Write(path, []byte(f.text)); err != nil {
			return fmt.Errorf("init: %w", err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	return nil
}

// announce prints what was written, the key, and the next steps.
func (c *initCmd) announce(p process, files []initFile, key string) {
	for _, f := range files {
		printf(p.stdout, "wrote    %s\n", filepath.Join(c.Dir, f.name))
	}
	file := filepath.Join(c.Dir, "gateway.yaml")
	printf(p.stdout, "API key  %s\n         It is shown only now. Callers send it as \"Authorization: Bearer KEY\"; %s has its hash.\n", key, file)
	c.announceEncryptionKey(p, files)
	printf(p.stdout, "next     gateway check --deep -c %s\n         gateway serve -c %s\n", shellWord(file), shellWord(file))
	if c.Systemd {
		if dir := c.writableDir(); dir != "" {
			printf(p.stdout, "         sudo install -d -o sluice -g sluice -m 700 %s\n", shellWord(dir))
		}
		printf(p.stdout, "         sudo chown -R sluice: %s   # and all credential files: the unit runs as the user sluice\n", shellWord(c.Dir))
		printf(p.stdout, "         sudo install -m 644 %s /etc/systemd/system/ && sudo systemctl enable --now sluice\n", shellWord(filepath.Join(c.Dir, "sluice.service")))
		if hidden := c.hiddenFromUnit(); hidden != nil {
			printf(p.stdout, "move     %s\n         The unit hides /home, /root, /run/user, /tmp and /var/tmp from the gateway (ProtectHome, PrivateTmp).\n", strings.Join(hidden, ", "))
		}
	}
	if c.Helm {
		printf(p.stdout, "         helm install sluice deploy/helm/sluice -f %s\n", shellWord(filepath.Join(c.Dir, "values.yaml")))
	}
}

// announceEncryptionKey says what to do with a new encryption key.
func (c *initCmd) announceEncryptionKey(p process, files []initFile) {
	if !slices.ContainsFunc(files, func(f initFile) bool { return f.name == encryptionKeyName }) {
		return
	}
	printf(p.stdout, "keep     a copy of %s on another machine: without it, what is stored cannot be read\n", filepath.Join(c.Dir, encryptionKeyName))
	if c.Queue == "nats" {
		printf(p.stdout, "         All gateways of the cluster need this file: gateway init --encryption-key-file\n")
	}
}

// questions asks on a terminal.
type questions struct {
	process
	lines chan string // closed at the end of the input
}

func (q *questions) read() {
	defer close(q.lines)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		q.lines <- strings.TrimSpace(in.Text())
	}
}

// errInterrupted ends the command without a file written.
var errInterrupted = errors.New("init: interrupted; nothing was written")

// text asks until check accepts the answer. An empty answer is the default.
func (q *questions) text(answer *string, question, preset string, check func() error) error {
	if *answer != "" {
		return nil
	}
	for {
		printf(q.stdout, "%s", question)
		if preset != "" {
			printf(q.stdout, " [%s]", preset)
		}
		printf(q.stdout, ": ")
		select {
		case <-q.Done():
			printf(q.stdout, "\n")
			return errInterrupted
		case line, ok := <-q.lines:
			if !ok {
				return errInterrupted
			}
			*answer = cmp.Or(line, preset)
		}
		err := error(nil)
		if *answer == "" {
			err = errors.New("an answer is needed")
		} else if check != nil {
			err = check()
		}
		if err == nil {
			return nil
		}
		printf(q.stdout, "  %s\n", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "config: "), "\n", "\n  "))
		*answer = ""
	}
}

// confirm asks for yes or no.
func (q *questions) confirm(question string, preset bool) (yes bool, err error) {
	word, answer := map[bool]string{true: "yes", false: "no"}[preset], ""
	err = q.text(&answer, question+" (yes or no)", word, func() error {
		if answer = strings.ToLower(answer); !strings.HasPrefix("yes", answer) && !strings.HasPrefix("no", answer) {
			return errors.New("must be yes or no")
		}
		return nil
	})
	return strings.HasPrefix("yes", answer), err
}

// prompt asks for what the flags do not say.
func (c *initCmd) prompt(q *questions) error {
	printf(q.stdout, "Writes %s. Ctrl-C ends without writing anything.\n\n", filepath.Join(c.Dir, "gateway.yaml"))
	steps := []func(*questions) error{c.askApp, c.askAPNs, c.askFCM, c.askWebPush, c.askQueue, c.askEncryption, c.askTLS, c.askPlatform}
	for _, step := range steps {
		if err := step(q); err != nil {
			return err
		}
	}
	printf(q.stdout, "\n")
	return nil
}

func (c *initCmd) askApp(q *questions) error {
	return q.text(&c.App, "Name of the app, as in the URL of its notifications", "", func() error {
		draft := initCmd{Dir: c.Dir, App: c.App, Subject: "mailto:push@example.com"}
		return draft.verifyAnswer()
	})
}

// exampleHash is a valid hash.
var exampleHash = "sha256:" + strings.Repeat("0", 64)

// verifyAnswer verifies a configuration with the answers so far. Its error is for people who did not
// write the file: it has no position.
func (c *initCmd) verifyAnswer() error {
	err := c.verify(exampleHash)
	if found, ok := errors.AsType[config.Errors](err); ok {
		return fmt.Errorf("%s: %s", found[0].Path, found[0].Text)
	}
	return err
}

func (c *initCmd) askAPNs(q *questions) error {
	if c.hasAPNs() || c.Yes {
		return nil
	}
	yes, err := q.confirm("Send to Apple devices (APNs)?", true)
	if err != nil || !yes {
		return err
	}
	draft := func() *initCmd {
		return &initCmd{Dir: c.Dir, App: c.App, APNsKeyFile: c.APNsKeyFile, APNsKeyID: cmp.Or(c.APNsKeyID, "ABCDEFGHIJ"), APNsTeamID: cmp.Or(c.APNsTeamID, "ABCDEFGHIJ"), APNsTopic: cmp.Or(c.APNsTopic, "com.example.app")}
	}
	verify := func() error { return draft().verifyAnswer() }
	if err := q.text(&c.APNsKeyFile, "  File of the .p8 key from Apple's developer site", "", verify); err != nil {
		return err
	}
	if err := q.text(&c.APNsKeyID, "  Key ID", keyIDOfName(c.APNsKeyFile), verify); err != nil {
		return err
	}
	if err := q.text(&c.APNsTeamID, "  Team ID, from the membership page", "", verify); err != nil {
		return err
	}
	if err := q.text(&c.APNsTopic, "  Bundle ID of the app", "", verify); err != nil {
		return err
	}
	production, err := q.confirm("  Is it an app from the App Store or TestFlight?", true)
	c.APNsSandbox = !production
	return err
}

func (c *initCmd) askFCM(q *questions) error {
	if c.FCMFile != "" {
		return nil
	}
	yes, err := q.confirm("Send to Android devices (FCM)?", true)
	if err != nil || !yes {
		return err
	}
	return q.text(&c.FCMFile, "  File of the service account's JSON key from the Firebase console", "", func() error {
		draft := initCmd{Dir: c.Dir, App: c.App, FCMFile: c.FCMFile}
		return draft.verifyAnswer()
	})
}

func (c *initCmd) askWebPush(q *questions) error {
	if c.Subject == "" {
		yes, err := q.confirm("Send to browsers (Web Push)?", false)
		if err != nil || !yes && c.VAPIDFile == "" {
			return err
		}
	}
	return q.text(&c.Subject, "  Contact for the push services, such as mailto:push@example.com", "", func() error {
		draft := initCmd{Dir: c.Dir, App: c.App, Subject: c.Subject, VAPIDFile: c.VAPIDFile}
		return draft.verifyAnswer()
	})
}

func (c *initCmd) askQueue(q *questions) error {
	err := q.text(&c.Queue, "Queue for asynchronous and scheduled notifications: embedded, nats or none", "embedded", func() error {
		if c.Queue != "embedded" && c.Queue != "nats" && c.Queue != "none" {
			return errors.New("must be embedded, nats or none")
		}
		return nil
	})
	if err != nil || c.Queue != "nats" {
		return err
	}
	return q.text(&c.NATSURL, "  URL of the NATS cluster, such as nats://nats.internal:4222", "", func() error {
		draft := initCmd{Dir: c.Dir, App: c.App, Subject: "mailto:push@example.com", Queue: "nats", NATSURL: c.NATSURL}
		return draft.verifyAnswer()
	})
}

func (c *initCmd) askEncryption(q *questions) (err error) {
	if c.Queue != "none" && !c.encrypts() {
		c.Encrypt, err = q.confirm("Encrypt what the queue and the history store? (needs a key that must not be lost)", false)
	}
	return err
}

func (c *initCmd) askTLS(q *questions) error {
	if c.TLSCertFile == "" {
		yes, err := q.confirm("Shall the gateway speak TLS itself? (no: loopback, or behind a proxy)", false)
		if err != nil || !yes {
			return err
		}
	}
	if err := q.text(&c.TLSCertFile, "  File of the certificate in PEM", "", nil); err != nil {
		return err
	}
	return q.text(&c.TLSKeyFile, "  File of its private key in PEM", "", func() error {
		draft := initCmd{Dir: c.Dir, App: c.App, Subject: "mailto:push@example.com", TLSCertFile: c.TLSCertFile, TLSKeyFile: c.TLSKeyFile}
		return draft.verifyAnswer()
	})
}

func (c *initCmd) askPlatform(q *questions) (err error) {
	if c.Systemd || c.Helm {
		return nil
	}
	if c.Systemd, err = q.confirm("Write a unit for systemd?", false); err == nil && !c.Systemd {
		c.Helm, err = q.confirm("Write values for the Helm chart?", false)
	}
	return err
}
