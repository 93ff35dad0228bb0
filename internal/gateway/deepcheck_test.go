// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/proxy/proxytest"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/providers/webpush"
)

// deepEnv is a mock, and the blocks of an app that uses it.
type deepEnv struct {
	mockEnv
	t *testing.T
}

func (s deepEnv) webPushBlock() string {
	return fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'mailto:push@example.com'}", s.ready.WebPush, s.ready.CAFile, vapidKeyFile(s.t))
}

// file writes a file with this name and returns its path.
func (s deepEnv) file(name string, content []byte) string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

func (s deepEnv) read(file string) []byte {
	s.t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return content
}

// key returns a new private key in the format of Apple's .p8 files.
func (s deepEnv) key() []byte {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// account returns the file of the mock's service account with another value of a member.
func (s deepEnv) account(member, value string) string {
	s.t.Helper()
	var members map[string]string
	if err := json.Unmarshal(s.read(s.ready.ServiceAccountFile), &members); err != nil {
		s.t.Fatal(err)
	}
	members[member] = value
	text, err := json.Marshal(members)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.file("account.json", text)
}

// byHostName is the APNs block of a mock that distinguishes the environments.
func (s deepEnv) byHostName() string {
	_, rest, _ := strings.Cut(s.apnsBlock(), ", ")
	return "apns: {" + rest
}

// certificateBlock returns the APNs block with a certificate.
func (s deepEnv) certificateBlock(cert tls.Certificate) string {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	certFile := s.file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	keyFile := s.file("cert-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return replace(s.apnsCertBlock(), fmt.Sprintf("%q", s.files.ClientCert), fmt.Sprintf("%q", certFile), fmt.Sprintf("%q", s.files.ClientKey), fmt.Sprintf("%q", keyFile))
}

func (s deepEnv) issue(template *x509.Certificate) string {
	s.t.Helper()
	cert, err := s.mock.IssueCertificate(template)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.certificateBlock(cert)
}

// certificate is a template without a topic.
func certificate() *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: "Apple Push Services"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

func (s deepEnv) script(faults ...mockprovider.Fault) {
	s.t.Helper()
	if err := s.mock.SetScript(mockprovider.Script{Faults: faults}); err != nil {
		s.t.Fatal(err)
	}
}

// replace replaces pairs of old and new texts, which must occur.
func replace(text string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			panic(pairs[i] + " is not in " + text)
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// TestDeepCheckRecognizesMistakes makes one mistake at a time.
func TestDeepCheckRecognizesMistakes(t *testing.T) {
	otherKey := func(s deepEnv) string { return fmt.Sprintf("%q", s.file("k.p8", s.key())) }
	for _, c := range []struct {
		name   string
		mock   mockprovider.Config
		blocks func(s deepEnv) string // of the app
		more   func(s deepEnv) string // of the file; may be nil
		key    string                 // that the problem names
		seen   string
		fix    string
	}{
		{name: "swapped key_id and team_id", blocks: func(s deepEnv) string {
			return replace(s.apnsBlock(), "key_id: MOCKKEY001, team_id: MOCKTEAM01", "key_id: MOCKTEAM01, team_id: MOCKKEY001")
		}, key: "apps.shop.apns.key_id", seen: "403 InvalidProviderToken; with key_id and team_id swapped", fix: "set key_id: MOCKKEY001 and team_id: MOCKTEAM01"},
		{name: "key_id differs from the file's name", blocks: func(s deepEnv) string { return replace(s.apnsBlock(), "key_id: MOCKKEY001", "key_id: MOCKKEY002") },
			key: "apps.shop.apns.key_id", seen: "the key ID in the name of key_file, MOCKKEY001", fix: "set key_id: MOCKKEY001"},
		{name: "unknown key_id", blocks: func(s deepEnv) string {
			file := fmt.Sprintf("%q", s.file("apple.p8", s.read(s.ready.APNsKeyFile)))
			return replace(s.apnsBlock(), fmt.Sprintf("%q", s.ready.APNsKeyFile), file, "key_id: MOCKKEY001", "key_id: ABCDEFGHIJ")
		}, key: "apps.shop.apns.key_id", seen: "does not know the key ABCDEFGHIJ of the team MOCKTEAM01", fix: "Apple's developer site, Keys (a revoked key is not listed)"},
		{name: "key of another service", blocks: func(s deepEnv) string {
			return replace(s.apnsBlock(), fmt.Sprintf("%q", s.ready.APNsKeyFile), otherKey(s))
		}, key: "apps.shop.apns.key_id", seen: "or key_file contains another key", fix: "compare key_id and key_file"},
		{name: "key of the sandbox in production", mock: mockprovider.Config{Credentials: []mockprovider.Credential{{Environment: mockprovider.Sandbox}}}, blocks: deepEnv.byHostName,
			key: "apps.shop.apns.environment", seen: "403 BadEnvironmentKeyInToken: the key MOCKKEY001 is not valid in production", fix: "set environment: sandbox"},
		{name: "key of production in the sandbox", mock: mockprovider.Config{Credentials: []mockprovider.Credential{{Environment: mockprovider.Production}}},
			blocks: func(s deepEnv) string { return replace(s.byHostName(), "topic:", "environment: sandbox, topic:") },
			key:    "apps.shop.apns.environment", seen: "is not valid in sandbox", fix: "set environment: production"},
		{name: "topic of another team", blocks: func(s deepEnv) string {
			return replace(s.apnsBlock(), "topic: com.example.app", "topic: com.example.other")
		},
			key: "apps.shop.apns.topic", seen: `400 TopicDisallowed: the key MOCKKEY001 must not send to the topic "com.example.other"`, fix: "bundle ID of an app of the same team"},
		{name: "clock ahead of APNs", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.APNs, Clock: -30 * time.Minute})
			return s.apnsBlock()
		}, key: "clock", seen: "InvalidProviderToken; it accepts a token with an earlier time", fix: "is ahead: synchronize it"},
		{name: "clock behind APNs", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.APNs, Clock: 2 * time.Hour})
			return s.apnsBlock()
		}, key: "clock", seen: "403 ExpiredProviderToken for a token that was signed just now", fix: "more than an hour behind"},
		{name: "clock differs from Google's", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.OAuth, Clock: 10 * time.Minute})
			return s.fcmBlock()
		}, key: "clock", seen: "s behind that of 127.0.0.1:", fix: "chrony or systemd-timesyncd"},
		{name: "clock ahead of Google's", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.OAuth, Clock: -2 * time.Hour})
			return s.fcmBlock()
		}, key: "clock", seen: "invalid_grant, because of the time in the request", fix: "the clock of this machine is wrong"},
		{name: "certificate of another authority", blocks: func(s deepEnv) string { return providerBlock(s, "com.example.app", 2) },
			key: "apps.shop.apns.cert_file", seen: "403 MissingProviderToken: it did not get a certificate that it accepts", fix: "use the provider certificate that Apple issued"},
		{name: "expired certificate", blocks: func(s deepEnv) string {
			template := certificate()
			template.NotBefore, template.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().Add(-time.Hour)
			return s.issue(template)
		}, key: "apps.shop.apns.cert_file", seen: "is valid only from", fix: "get a new one from Apple"},
		{name: "certificate of another topic", blocks: func(s deepEnv) string { return providerBlock(s, "com.example.other", 2) },
			key: "apps.shop.apns.cert_file", seen: "not for the topic com.example.app, but for: com.example.other", fix: "or set topic to com.example.other"},
		{name: "certificate whose topic cannot be read", blocks: func(s deepEnv) string { return s.issue(certificate()) },
			key: "apps.shop.apns.topic", seen: "400 TopicDisallowed: the certificate must not send", fix: "bundle ID"},
		{name: "certificate of the sandbox", blocks: func(s deepEnv) string { return providerBlock(s, "com.example.app", 1) },
			key: "apps.shop.apns.environment", seen: "for sandbox only", fix: "set environment: sandbox"},
		{name: "APNs is down", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.APNs, Status: 503})
			return s.apnsBlock()
		}, key: "apps.shop.apns", seen: "503 ServiceUnavailable", fix: "run the check again later"},
		{name: "too many provider tokens", mock: mockprovider.Config{TokenUpdateEvery: 20 * time.Minute}, blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.APNs, Status: 429, Reason: "TooManyProviderTokenUpdates"})
			return s.apnsBlock()
		}, key: "apps.shop.apns.key_id", seen: "429 TooManyProviderTokenUpdates", fix: "in 20 minutes"},
		{name: "captive portal", blocks: func(s deepEnv) string {
			page := "<html>Log in</html>"
			s.script(mockprovider.Fault{Service: mockprovider.APNs, Status: 200, Body: &page})
			return s.apnsBlock()
		}, key: "apps.shop.apns.url", seen: "not from the service", fix: "the proxy and the firewall"},

		{name: "missing permission", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.FCM, Status: 403, Reason: "IAM_PERMISSION_DENIED"})
			return s.fcmBlock()
		}, key: "apps.shop.fcm.service_account_file", seen: "403 PERMISSION_DENIED: the service account sluice-mock@demo-project", fix: "Firebase Cloud Messaging API Admin"},
		{name: "disabled API", blocks: func(s deepEnv) string {
			s.script(mockprovider.Fault{Service: mockprovider.FCM, Status: 403, Reason: "SERVICE_DISABLED"})
			return s.fcmBlock()
		}, key: "apps.shop.fcm.project_id", seen: "the Firebase Cloud Messaging API is disabled", fix: "https://console.cloud.google.com/apis/library/fcm.googleapis.com?project=demo-project"},
		{name: "wrong project_id", blocks: func(s deepEnv) string { return replace(s.fcmBlock(), "fcm: {", "fcm: {project_id: other-project, ") },
			key: "apps.shop.fcm.project_id", seen: "belongs to the project demo-project, and project_id is other-project", fix: "remove project_id or set it to demo-project"},
		{name: "revoked key of a service account", blocks: func(s deepEnv) string {
			return replace(s.fcmBlock(), fmt.Sprintf("%q", s.ready.ServiceAccountFile), fmt.Sprintf("%q", s.account("private_key_id", "0123")))
		}, key: "apps.shop.fcm.service_account_file", seen: "invalid_grant", fix: "deleted or revoked: create a new one"},
		{name: "deleted service account", blocks: func(s deepEnv) string {
			return replace(s.fcmBlock(), fmt.Sprintf("%q", s.ready.ServiceAccountFile), fmt.Sprintf("%q", s.account("client_email", "gone@demo-project.iam.gserviceaccount.com")))
		}, key: "apps.shop.fcm.service_account_file", seen: "gone@demo-project.iam.gserviceaccount.com: invalid_grant", fix: "does not exist any more"},
		{name: "token endpoint with an unknown name", blocks: func(s deepEnv) string {
			return replace(s.fcmBlock(), "fcm: {", "fcm: {token_url: 'https://oauth2.invalid/token', ")
		},
			key: "apps.shop.fcm.token_url", seen: "oauth2.invalid:443 cannot be resolved", fix: "correct the name"},
		{name: "token endpoint that is not trusted", blocks: func(s deepEnv) string {
			return replace(s.fcmBlock(), fmt.Sprintf("ca_file: %q, ", s.ready.CAFile), "")
		}, key: "apps.shop.fcm.ca_file", seen: "is not trusted", fix: "set ca_file"},

		{name: "service account in key_file", blocks: func(s deepEnv) string {
			return replace(s.apnsBlock(), fmt.Sprintf("%q", s.ready.APNsKeyFile), fmt.Sprintf("%q", s.ready.ServiceAccountFile))
		}, key: "apps.shop.apns.key_file", seen: "PEM block PRIVATE KEY", fix: "AuthKey_<key_id>.p8"},
		{name: "APNs key in service_account_file", blocks: func(s deepEnv) string {
			return replace(s.fcmBlock(), fmt.Sprintf("%q", s.ready.ServiceAccountFile), fmt.Sprintf("%q", s.ready.APNsKeyFile))
		}, key: "apps.shop.fcm.service_account_file", seen: "but a private key in PKCS #8", fix: "Generate new private key"},
		{name: "PKCS #12 in cert_file", blocks: func(s deepEnv) string {
			file := s.file("cert.p12", []byte("\x30\x82\x00\x04\x02\x01\x03\x30"))
			return replace(s.apnsCertBlock(), fmt.Sprintf("%q", s.files.ClientCert), fmt.Sprintf("%q", file))
		}, key: "apps.shop.apns.cert_file", seen: "PKCS #12", fix: "openssl pkcs12 -in FILE -clcerts"},

		{name: "subject that Apple refuses", blocks: func(s deepEnv) string { return replace(s.webPushBlock(), "push@example.com", "push@localhost") },
			key: "apps.shop.webpush.subject", seen: "BadJwtToken", fix: "mailto:push@example.com"},
		{name: "keys of different pairs", blocks: func(s deepEnv) string {
			other, err := webpush.NewKey()
			if err != nil {
				s.t.Fatal(err)
			}
			block := s.webPushBlock()
			_, file, _ := strings.Cut(block, `vapid_key_file: "`)
			file, _, _ = strings.Cut(file, `"`)
			return replace(block, file, s.file("vapid.pem", append([]byte("public   "+other.Public()+"\n"), s.read(file)...)))
		}, key: "apps.shop.webpush.vapid_key_file", seen: "the keys do not match", fix: "private key of the pair"},
		{name: "public key in vapid_key_file", blocks: func(s deepEnv) string {
			other, err := webpush.NewKey()
			if err != nil {
				s.t.Fatal(err)
			}
			return fmt.Sprintf("webpush: {url: '%s', vapid_key_file: %q, subject: 'mailto:push@example.com'}", s.ready.WebPush, s.file("vapid.txt", []byte(other.Public())))
		}, key: "apps.shop.webpush.vapid_key_file", seen: "the public key of a VAPID pair", fix: "the private key is needed"},
		{name: "push service that is not trusted", blocks: func(s deepEnv) string {
			return replace(s.webPushBlock(), fmt.Sprintf("ca_file: %q, ", s.ready.CAFile), "")
		}, key: "apps.shop.webpush.ca_file", seen: "is not trusted", fix: "set ca_file"},

		{name: "proxy refuses", blocks: func(s deepEnv) string { return proxied(s, "apns", 403) }, key: "apps.shop.apns.proxy.url", seen: "CONNECT is answered with 403 Forbidden", fix: "allow CONNECT to api.push.apple.com:443"},
		{name: "proxy needs credentials", blocks: func(s deepEnv) string { return proxied(s, "apns", 407) }, key: "apps.shop.apns.proxy.credentials_file", seen: "407 Proxy Authentication Required", fix: "user:password"},
		{name: "proxy refuses the token endpoint", blocks: func(s deepEnv) string { return proxied(s, "fcm", 403) }, key: "apps.shop.fcm.proxy.url", seen: "does not connect to oauth2.googleapis.com:443", fix: "allow CONNECT to oauth2.googleapis.com:443"},
		{name: "proxy that does not exist", blocks: func(s deepEnv) string {
			return replace(s.byHostName(), "apns: {", "apns: {url: 'https://api.push.apple.com', proxy: {url: 'http://127.0.0.1:1'}, ")
		}, key: "apps.shop.apns.proxy.url", seen: "cannot connect to the proxy 127.0.0.1:1", fix: "correct the address of the proxy"},

		{name: "unknown name", blocks: func(s deepEnv) string {
			return fmt.Sprintf("apns: {url: 'https://apns.invalid', ca_file: %q, key_file: %q, key_id: MOCKKEY001, team_id: MOCKTEAM01, topic: com.example.app}", s.ready.CAFile, s.ready.APNsKeyFile)
		}, key: "apps.shop.apns.url", seen: "apns.invalid:443 cannot be resolved", fix: "dns.servers"},
		{name: "authority of another service", blocks: func(s deepEnv) string {
			other := otherAuthority(s)
			return replace(s.apnsBlock(), fmt.Sprintf("%q", s.ready.CAFile), fmt.Sprintf("%q", other))
		}, key: "apps.shop.apns.ca_file", seen: "signed by unknown authority", fix: "set ca_file to the certificate authority of the server"},
		{name: "closed port", blocks: func(s deepEnv) string {
			return replace(s.apnsBlock(), "endpoints: ['"+s.ready.APNsEndpoints[0], "endpoints: ['127.0.0.1:1")
		}, key: "apps.shop.apns.url", seen: "refuses connections", fix: "allow outbound TCP connections"},
		{name: "webhook in a private network", blocks: func(s deepEnv) string { return s.fcmBlock() + "\n    " + hookBlock(s, "") }, more: queueBlock,
			key: "apps.shop.webhooks[0].networks", seen: "is not a public address", fix: "list its network"},
		{name: "webhook that is not trusted", blocks: func(s deepEnv) string { return s.fcmBlock() + "\n    " + hookBlock(s, ", networks: [127.0.0.0/8]") }, more: queueBlock,
			key: "apps.shop.webhooks[0].ca_file", seen: "is not trusted", fix: "set ca_file"},
		{name: "queue folder that cannot be written", blocks: deepEnv.fcmBlock, more: func(deepEnv) string { return "queue: {dir: /proc/sluice}\n" },
			key: "queue.dir", seen: "/proc cannot be written", fix: "the user of the gateway may write"},
		{name: "NATS that cannot be reached", blocks: deepEnv.fcmBlock, more: func(deepEnv) string { return "queue: {nats: {url: 'nats://user:hunter2@127.0.0.1:1'}}\n" },
			key: "queue.nats.url", seen: "cannot connect", fix: "check the URL and the credentials"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.mock.Endpoints = 1
			s := deepEnv{newMockEnv(t, c.mock), t}
			text := listenConfig + "apps:\n" + s.appBlock("shop", c.blocks(s))
			if c.more != nil {
				text += c.more(s)
			}
			var texts []string
			for _, problem := range deepProblems(t, text) {
				checkNoSecret(t, s, problem.Error())
				if problem.Key == c.key && strings.Contains(problem.Seen, c.seen) && strings.Contains(problem.Fix, c.fix) {
					return
				}
				texts = append(texts, fmt.Sprintf("%+v", *problem))
			}
			t.Errorf("got\n%s\nwant %s: %s: %s", strings.Join(texts, "\n"), c.key, c.seen, c.fix)
		})
	}
}

// deepProblems returns the problems of a configuration. An invalid one has a problem with its whole
// error.
func deepProblems(t *testing.T, text string) (found []*gateway.Problem) {
	t.Helper()
	g, err := gateway.New(parse(t, text), nil)
	if err != nil {
		key, rest, _ := strings.Cut(strings.TrimPrefix(err.Error(), "config: "), ": ")
		return []*gateway.Problem{{Key: key, Seen: rest, Fix: rest}}
	}
	for _, check := range g.DeepChecks() {
		_, err := check.Verify(t.Context())
		if problem, ok := errors.AsType[*gateway.Problem](err); ok {
			found = append(found, problem)
		} else if err != nil {
			found = append(found, &gateway.Problem{Key: check.Key, Seen: err.Error()})
		}
	}
	return found
}

func checkNoSecret(t *testing.T, s deepEnv, text string) {
	t.Helper()
	d := newLeakDetector()
	d.addEnvSecrets(t, s.mockEnv)
	d.secrets["a private key"] = "-----BEGIN" // the name of the block alone is in the texts of errors
	d.secrets["the password of NATS"], d.secrets["the path of the webhook"] = "hunter2", "hook-path-secret"
	_, _ = d.Write([]byte(text))
	d.checkLeaks(t)
}

func queueBlock(s deepEnv) string {
	return fmt.Sprintf("queue: {dir: %q, reserve: 1MiB}\n", s.t.TempDir())
}

// hookBlock returns a webhook whose receiver has its own certificate authority.
func hookBlock(s deepEnv, more string) string {
	return fmt.Sprintf("webhooks: [{name: hook, url: '%s/hook-path-secret', secret: %s%s}]", newWebhookReceiver(s.t).URL, webhookSecret, more)
}

// providerBlock returns the APNs block with a certificate for a topic and environment: 1 for the
// sandbox, 2 for production.
func providerBlock(s deepEnv, topic string, environment int) string {
	return fmt.Sprintf("apns: {url: 'https://%s', ca_file: %q, topic: com.example.app, %s}", s.ready.APNs, s.ready.CAFile, providerCertificate(s.t, time.Hour, topic, nil, environment))
}

// proxied returns the block of a provider behind a proxy that refuses with a status.
func proxied(s deepEnv, provider string, status int) string {
	p := proxytest.Start(s.t, proxytest.Config{})
	p.Refuse(status)
	block := fmt.Sprintf("proxy: {url: '%s'}, ca_file: %q, ", p.URL(), s.ready.CAFile)
	if provider == "fcm" {
		return fmt.Sprintf("fcm: {%sservice_account_file: %q, token_url: 'https://oauth2.googleapis.com/token'}", block, s.ready.ServiceAccountFile)
	}
	return fmt.Sprintf("apns: {%skey_file: %q, key_id: MOCKKEY001, team_id: MOCKTEAM01, topic: com.example.app}", block, s.ready.APNsKeyFile)
}

// otherAuthority returns the file of a certificate that has signed nothing.
func otherAuthority(s deepEnv) string {
	block := providerCertificate(s.t, time.Hour, "com.example.app", nil)
	_, file, _ := strings.Cut(block, `cert_file: "`)
	file, _, _ = strings.Cut(file, `"`)
	return file
}

// TestDeepCheckAcceptsAWorkingConfiguration covers all providers and credentials at once, and that no
// notification is delivered.
func TestDeepCheckAcceptsAWorkingConfiguration(t *testing.T) {
	s := deepEnv{newMockEnv(t, mockprovider.Config{Endpoints: 1}), t}
	receiver := newWebhookReceiver(t)
	hook := fmt.Sprintf("webhooks: [{name: hook, url: '%s/events', secret: %s, networks: [127.0.0.0/8], ca_file: %q}]", receiver.URL, webhookSecret, receiver.caFile(t))
	text := listenConfig + "apps:\n" + s.appBlock("shop", s.apnsBlock(), s.fcmBlock(), s.webPushBlock(), hook) + s.appBlock("shop.beta", s.apnsBlock()) +
		s.appBlock("courier", s.apnsCertBlock(), fmt.Sprintf("webpush: {url: '%s', ca_file: %q, vapid_key_file: %q, subject: 'https://push.example.com'}", s.ready.WebPush, s.ready.CAFile, vapidKeyFile(t))) +
		queueBlock(s)
	g, err := gateway.New(parse(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, check := range g.DeepChecks() {
		found, err := check.Verify(t.Context())
		if err != nil {
			t.Errorf("%s: %v", check.Key, err)
		}
		lines = append(lines, check.App+"|"+check.Key+": "+found)
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{
		"shop|apps.shop.apns: APNs (production) accepts the key MOCKKEY001 for the topic com.example.app; nothing was sent",
		"shop.beta|apps.shop.beta.apns: APNs (production) accepts the key MOCKKEY001",
		"courier|apps.courier.apns: APNs (production) accepts the certificate",
		"shop|apps.shop.fcm: FCM accepts the service account sluice-mock@demo-project.iam.gserviceaccount.com for the project demo-project; nothing was sent",
		"courier|apps.courier.webpush: can sign for the public key B", "shop|apps.shop.webpush: connected to 127.0.0.1:",
		"shop|apps.shop.webhooks[0]: connected to the receiver hook; nothing was posted", "|clock: within 1m0s of 127.0.0.1:", "|queue.dir: ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	checkNoSecret(t, s, got)
	if n := receiver.posts.Load(); n != 0 {
		t.Errorf("the webhook got %d posts", n)
	}
	for _, entry := range s.mock.Ledger().Entries(mockprovider.Query{}) {
		if entry.Accepted && entry.Service != mockprovider.OAuth && !strings.HasSuffix(entry.ID, "/fake_message_id") {
			t.Errorf("delivered: %+v", entry)
		}
	}
}
