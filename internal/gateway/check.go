// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/providers/webpush"
)

// Check is one condition that must hold for a gateway to work.
type Check struct {
	// Key is the configuration key that it checks.
	Key string
	// App is the app whose block contains the key; empty for the others. Checks of different apps can
	// run at the same time.
	App string
	// Verify returns what it found, or the error that a gateway would have. The error can be a
	// *Problem.
	Verify func(ctx context.Context) (found string, err error)
}

// Problem is a mistake that a check has recognized. It contains no secret.
type Problem struct {
	Key  string // what to change, such as apps.shop.apns.key_id
	Seen string // what the check saw, such as the response of APNs
	Fix  string // what to do
}

// Error returns what was seen and the fix.
func (p *Problem) Error() string { return p.Seen + " (" + p.Fix + ")" }

// Checks returns the conditions that New does not check: listen addresses, timeouts that contradict
// each other, storage, access tokens, DNS and connections. The checks can run in any order, and send
// no notification.
func (g *Gateway) Checks() []Check {
	snap := g.current.Load()
	checks := localChecks(snap)
	for _, s := range snap.activeServices() {
		if s.cred.cert == nil { // apnsChecks has the certificates
			checks = append(checks, Check{Key: s.paths[0], Verify: s.verifyCredential})
		}
		checks = append(checks, Check{Key: s.paths[0], Verify: s.verifyReachable})
	}
	for _, o := range snap.originRouters {
		checks = append(checks, o.checks()...)
	}
	checks = append(checks, signInChecks(snap, false)...)
	return withApps(snap.cfg, checks)
}

// localChecks returns the checks that need no provider.
func localChecks(snap *snapshot) []Check {
	checks := []Check{
		{Key: "listen", Verify: verifyListen("listen", snap.cfg.Listen)},
		{Key: "admin.listen", Verify: verifyListen("admin.listen", snap.cfg.Admin.Listen)},
	}
	checks = append(checks, tlsChecks(snap)...)
	checks = append(checks, timeoutChecks(snap.cfg)...)
	checks = append(checks, proxyChecks(snap)...)
	checks = append(checks, issuerChecks(snap)...)
	checks = append(checks, snap.traceExport.checks()...)
	checks = append(checks, storageChecks(snap.cfg, snap.keys)...)
	if keys := snap.keys; keys != nil {
		checks = append(checks, Check{Key: encryptionKey, Verify: func(context.Context) (string, error) { return describeKeys(keys), nil }})
	}
	return append(checks, apnsChecks(snap.cfg)...)
}

// withApps sets the apps of checks. The name of an app can contain dots.
func withApps(cfg *config.Config, checks []Check) []Check {
	for i := range checks {
		for name := range cfg.Apps {
			if strings.HasPrefix(checks[i].Key, "apps."+name+".") && len(name) > len(checks[i].App) {
				checks[i].App = name
			}
		}
	}
	return checks
}

// verifyListen verifies that an address is free by listening on it for a moment.
func verifyListen(key string, address config.Address) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if network, name := address.Split(); network == "systemd" {
			return "systemd must pass a socket with the name " + name + " to gateway serve", nil
		}
		l, err := listen(ctx, address, "0600")
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return "", &Problem{key, err.Error() + " (is a gateway running here already?)", "stop the process that uses the address (ss -ltnp shows it), or set another one"}
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return "", &Problem{key, err.Error(), "set an address of this machine (ip address shows them), or 0.0.0.0 for all"}
		case errors.Is(err, fs.ErrPermission):
			return "", &Problem{key, err.Error(), "use a port above 1023, a folder for the socket that the user of the gateway may write, or a socket of systemd (docs/operations.md)"}
		case err != nil:
			return "", err
		}
		return string(address) + " is free", l.Close()
	}
}

func (s *service) verifyCredential(ctx context.Context) (string, error) {
	if err := s.provider.Authorize(ctx); err != nil {
		return "", err
	}
	if s.cred.source != "" {
		return "got a token for " + s.cred.label + " with " + s.cred.source, nil
	}
	return "got a token for " + s.cred.label, nil
}

// verifyReachable connects to the addresses of the service in order, until one connects.
func (s *service) verifyReachable(ctx context.Context) (string, error) {
	conn, found, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	closing, cancel := context.WithCancel(ctx)
	cancel()
	_ = conn.Run(closing) // closes the connection; its error does not matter
	return found, nil
}

// connect connects to the addresses of the service in order, until one connects, and returns what it
// found. The caller must call Run of the connection.
func (s *service) connect(ctx context.Context) (conn pool.Conn, found string, err error) {
	u := s.open()
	addrs, _, err := u.resolver.Resolve(ctx)
	if err != nil {
		return nil, "", resolveError{err}
	}
	if u.way.target != "" {
		addrs = addrs[:1] // all are the same name
	}
	var failures []error
	for i, addr := range addrs {
		conn, err := u.dial(ctx, addr)
		switch {
		case err != nil && u.way.target != "":
			return nil, "", fmt.Errorf("cannot connect to %s: %w", s.settings.base, err)
		case err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", addr, err))
		case u.way.target != "":
			return conn, fmt.Sprintf("connected to %s through the proxy %s", s.settings.base, u.way.proxy), nil
		default:
			return conn, fmt.Sprintf("connected to %s, address %d of %d of %s", addr, i+1, len(addrs), s.settings.base), nil
		}
	}
	return nil, "", fmt.Errorf("cannot connect to any address of %s: %w", s.settings.base, errors.Join(failures...))
}

// timeoutChecks returns a failing check for each timeout that does not fit into the one around it. A
// gateway with such timeouts runs, but not as its operator expects.
func timeoutChecks(cfg *config.Config) (checks []Check) {
	fail := func(key, format string, args ...any) {
		checks = append(checks, Check{Key: key, Verify: func(context.Context) (string, error) { return "", fmt.Errorf(format, args...) }})
	}
	longest := cfg.Retry.AttemptTimeout
	verify := func(block string, r *config.Retry) {
		longest = max(longest, r.AttemptTimeout)
		inherited := block != "" && r.AttemptTimeout == cfg.Retry.AttemptTimeout
		if attempt, limit := r.AttemptTimeout, cfg.Limits.SendTimeout; attempt > limit && !inherited {
			fail(block+"retry.attempt_timeout", "%s exceeds limits.send_timeout (%s), so that a silent endpoint never counts as failed (lower it, or raise limits.send_timeout)", attempt, limit)
		}
	}
	verify("", &cfg.Retry)
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		app, path := cfg.Apps[name], "apps."+name
		if app.APNs != nil {
			verify(path+".apns.", &app.APNs.Retry)
		}
		if app.FCM != nil {
			verify(path+".fcm.", &app.FCM.Retry)
		}
		if app.WebPush != nil {
			verify(path+".webpush.", &app.WebPush.Retry)
		}
	}
	if cfg.Drain.Grace < longest {
		fail("drain.grace", "%s is shorter than retry.attempt_timeout (%s), so that a restart aborts attempts that the provider may have processed (raise it, best above limits.send_timeout)",
			cfg.Drain.Grace, longest)
	}
	return checks
}

// storageChecks returns the checks of the queue and the history.
func storageChecks(cfg *config.Config, keys *keyring.Ring) (checks []Check) {
	if !hasQueue(cfg) {
		return nil
	}
	engine, index := storageConfig(cfg)
	engine.Keys = keys
	key, fixOf := "queue.dir", func(error) string {
		return "use a folder that the user of the gateway may write, on a disk with enough free space; only one gateway can use it"
	}
	if engine.URL != "" {
		key, fixOf = "queue.nats.url", jetstream.Fix
	}
	checks = append(checks, Check{Key: key, Verify: func(ctx context.Context) (string, error) {
		found, err := jetstream.Verify(ctx, engine, map[string]int64{
			queue.Streams()[0]: int64(cfg.Queue.MaxBytes), history.Stream: int64(cfg.History.MaxBytes),
		})
		if _, lacks := errors.AsType[*keyring.MissingKeyError](err); lacks {
			return "", &Problem{encryptionKey + ".key_files", err.Error(), "add the file that names the missing key in its first line"}
		}
		if errors.Is(err, jetstream.ErrLocked) {
			err = fmt.Errorf("%w (is a gateway running here already?)", err)
		}
		if err != nil {
			return "", &Problem{key, err.Error(), fixOf(err)}
		}
		return found, nil
	}})
	if index == "" {
		return checks
	}
	return append(checks, Check{Key: "history.dir", Verify: func(context.Context) (string, error) {
		if err := history.Verify(index); err != nil {
			return "", &Problem{"history.dir", err.Error(), "use a folder that the user of the gateway may write"}
		}
		return index + " can be written", nil
	}})
}

// Warnings returns problems of a configuration with which a gateway runs nevertheless, each with
// its key and a remedy.
func Warnings(cfg *config.Config) []string { return append(configWarnings(cfg), keyWarnings(cfg)...) }

// configWarnings returns the warnings except those about API keys, which become true as time passes.
func configWarnings(cfg *config.Config) (found []string) {
	for _, f := range fileRefs(cfg) {
		if !f.secret || f.file == "" {
			continue
		}
		info, err := os.Stat(string(f.file))
		if err != nil || !readableByOthers(info) {
			continue
		}
		found = append(found, fmt.Sprintf("%s: %q has mode %#o, so other users of this machine can read the key (chmod 600)", f.key, string(f.file), info.Mode().Perm()))
	}
	found = append(found, tlsWarnings(cfg)...)
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		if c := cfg.Apps[name].APNs; c != nil {
			found = append(found, apnsWarnings("apps."+name+".apns", c)...)
		}
		if c := cfg.Apps[name].WebPush; c != nil && webpush.AppleRefusesSubject(c.Subject) {
			found = append(found, fmt.Sprintf("apps.%s.webpush.subject: Apple refuses it with BadJwtToken; other services accept it "+
				"(use a mailto: address or an https: URL with a public host name)", name))
		}
	}
	return found
}

// fileRef is a file that a configuration refers to.
type fileRef struct {
	key    string // such as apps.shop.apns.key_file
	file   config.File
	secret bool
}

// fileRefs returns the files of a configuration. The names of files that are not set are empty.
func fileRefs(cfg *config.Config) (refs []fileRef) {
	add := func(key string, file config.File, secret bool) { refs = append(refs, fileRef{key, file, secret}) }
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		app, path := cfg.Apps[name], "apps."+name+"."
		if c := app.APNs; c != nil {
			add(path+"apns.key_file", c.KeyFile, true)
			add(path+"apns.cert_key_file", c.CertKeyFile, true)
			add(path+"apns.cert_file", c.CertFile, false)
			add(path+"apns.ca_file", c.CAFile, false)
		}
		if c := app.FCM; c != nil {
			add(path+"fcm.service_account_file", c.ServiceAccountFile, true)
			add(path+"fcm.ca_file", c.CAFile, false)
		}
		if c := app.WebPush; c != nil {
			add(path+"webpush.vapid_key_file", c.VAPIDKeyFile, true)
			add(path+"webpush.ca_file", c.CAFile, false)
		}
		for i, w := range app.Webhooks {
			add(fmt.Sprintf("%swebhooks[%d].secret_file", path, i), w.SecretFile, true)
			add(fmt.Sprintf("%swebhooks[%d].ca_file", path, i), w.CAFile, false)
		}
	}
	for i, o := range cfg.Auth.OIDC {
		add(fmt.Sprintf("auth.oidc[%d].ca_file", i), o.CAFile, false)
		if o.SignIn != nil {
			add(fmt.Sprintf("auth.oidc[%d].sign_in.client_secret_file", i), o.SignIn.ClientSecretFile, true)
		}
	}
	add("queue.nats.credentials_file", cfg.Queue.NATS.CredentialsFile, true)
	add("queue.nats.nkey_file", cfg.Queue.NATS.NKeyFile, true)
	add("queue.nats.key_file", cfg.Queue.NATS.KeyFile, true)
	for i, file := range cfg.Queue.Encryption.KeyFiles {
		add(encryptionKey+"."+keyFileName(i), file, true)
	}
	for _, block := range cfg.TLSBlocks() {
		add(block.Path+".key_file", block.TLS.KeyFile, true)
		add(block.Path+".cert_file", block.TLS.CertFile, false)
		add(block.Path+".client_ca_file", block.TLS.ClientCAFile, false)
	}
	add("tracing.headers_file", cfg.Tracing.HeadersFile, true)
	add("tracing.key_file", cfg.Tracing.KeyFile, true)
	add("tracing.cert_file", cfg.Tracing.CertFile, false)
	add("tracing.ca_file", cfg.Tracing.CAFile, false)
	for _, p := range cfg.Proxies() {
		add(p.Path+".credentials_file", p.Proxy.CredentialsFile, true)
		add(p.Path+".ca_file", p.Proxy.CAFile, false)
	}
	return refs
}
