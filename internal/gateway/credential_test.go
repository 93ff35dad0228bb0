// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
)

// withByteOrderMark writes a copy of a file that starts with a byte order mark.
func withByteOrderMark(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	marked := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(marked, append([]byte("\ufeff"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	return marked
}

func TestCredentialFilesMayHaveByteOrderMark(t *testing.T) {
	s := newMockEnv(t)
	s.ready.CAFile, s.ready.APNsKeyFile, s.ready.ServiceAccountFile = withByteOrderMark(t, s.ready.CAFile), withByteOrderMark(t, s.ready.APNsKeyFile), withByteOrderMark(t, s.ready.ServiceAccountFile)
	s.files.ClientCert, s.files.ClientKey = withByteOrderMark(t, s.files.ClientCert), withByteOrderMark(t, s.files.ClientKey)
	webPush := fmt.Sprintf("webpush: {vapid_key_file: %q, subject: 'mailto:ops@example.com'}", withByteOrderMark(t, vapidKeyFile(t)))
	h := s.start(t, "\ufeff"+listenConfig+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock(), webPush)+s.appBlock("cert", s.apnsCertBlock()))
	for app, body := range map[string]string{
		"shop": apnsNotification(deviceToken), "cert": apnsNotification(deviceToken), "shop ": strings.Replace(apnsNotification("a:b"), "apns", "fcm", 1),
	} {
		if status, receipt := h.post(strings.TrimSpace(app), body); status != 200 || receipt["status"] != "accepted" {
			t.Errorf("%s: %d %v", app, status, receipt)
		}
	}
}

// providerCertificate writes a certificate as Apple issues them, and its key, and returns the
// members of the configuration with both files.
func providerCertificate(t *testing.T, lifetime time.Duration, uid string, topics []string, extensions ...int) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		Subject: pkix.Name{CommonName: "Apple Push Services: " + uid, OrganizationalUnit: []string{"TEAM123456"}},
	}
	if uid != "" {
		template.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: uid}}
	}
	apple := asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3}
	for _, last := range extensions {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: append(apple[:7:7], last), Value: asn1.NullBytes})
	}
	if topics != nil {
		var members []asn1.RawValue
		for _, topic := range topics {
			members = append(members, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(topic)},
				asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte("\x0c\x03app")})
		}
		value, err := asn1.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: append(apple[:7:7], 6), Value: value})
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: certificate}, "key.pem": {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("cert_file: %q, cert_key_file: %q", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
}

// TestCheckComparesCertificateWithConfiguration covers what check says about the APNs block of an app.
func TestCheckComparesCertificateWithConfiguration(t *testing.T) {
	const year = 365 * 24 * time.Hour
	universal := []string{"com.example.app", "com.example.app.voip", "com.example.app.complication"}
	s := newMockEnv(t)
	key := fmt.Sprintf("key_file: %q, key_id: ABC123DEFG, team_id: TEAM123456", s.ready.APNsKeyFile)
	for _, c := range []struct{ name, block, failure, warning, found string }{
		{name: "key", block: key + ", topic: com.example.app", found: "com.example.app"},
		{name: "key, topic with the team ID", block: key + ", topic: TEAM123456.com.example.app", failure: "starts with the team ID, which APNs refuses: set the bundle ID com.example.app"},
		{name: "key, topic with another team ID", block: key + ", topic: TEAM654321.com.example.app", warning: "apns.topic: starts with ten capital letters and digits"},
		{name: "key, topic of VoIP", block: key + ", topic: com.example.app.voip", warning: "apns.topic: ends in .voip, so notifications that set no push type are sent as voip"},
		{name: "key, topic of Live Activities", block: key + ", topic: com.example.app.push-type.liveactivity", warning: "are sent as liveactivity"},
		{name: "universal", block: providerCertificate(t, year, "com.example.app", universal, 1, 2) + ", topic: com.example.app",
			found: ", for com.example.app, com.example.app.voip, com.example.app.complication in production and sandbox"},
		{name: "universal in the sandbox", block: providerCertificate(t, year, "com.example.app", universal, 1, 2) + ", topic: com.example.app, environment: sandbox"},
		{name: "universal without a topic", block: providerCertificate(t, year, "com.example.app", universal, 1, 2), failure: "several topics, so topic must be set"},
		{name: "one topic without a topic", block: providerCertificate(t, year, "com.example.app", nil, 2), found: ", for com.example.app in production"},
		{name: "other topic", block: providerCertificate(t, year, "com.example.app", universal, 1, 2) + ", topic: com.example.other", failure: "not for the topic com.example.other, but for: com.example.app,"},
		{name: "other topic of one", block: providerCertificate(t, year, "com.example.app", nil, 2) + ", topic: com.example.app.beta", failure: "not for the topic com.example.app.beta"},
		{name: "VoIP services", block: providerCertificate(t, year, "com.example.app.voip", []string{"com.example.app.voip"}, 1, 2, 4) + ", topic: com.example.app"},
		{name: "sandbox only", block: providerCertificate(t, year, "com.example.app", nil, 1) + ", topic: com.example.app", failure: "the certificate is for sandbox only, and environment is production"},
		{name: "production only", block: providerCertificate(t, year, "com.example.app", nil, 2) + ", environment: sandbox", failure: "the certificate is for production only, and environment is sandbox"},
		{name: "team ID", block: providerCertificate(t, year, "", nil) + ", topic: TEAM123456.com.example.app", failure: "starts with the team ID"},
		{name: "ends soon", block: providerCertificate(t, 12*24*time.Hour+time.Hour, "com.example.app", nil, 2), warning: "in 12 days (get a new one from Apple)"},
		{name: "nothing known", block: providerCertificate(t, year, "", nil) + ", topic: com.example.app", found: "valid until "},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := parse(t, listenConfig+"apps:\n"+s.appBlock("shop", "apns: {"+c.block+"}"))
			g, err := gateway.New(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			var failures, found []string
			for _, check := range g.Checks() {
				if !strings.HasPrefix(check.Key, "apps.shop.apns.") {
					continue // needs the network
				}
				text, err := check.Verify(t.Context())
				found = append(found, text)
				if err != nil {
					failures = append(failures, err.Error())
				}
			}
			for what, want := range map[string][2]string{
				"failures": {strings.Join(failures, "\n"), c.failure}, "warnings": {strings.Join(gateway.Warnings(cfg), "\n"), c.warning},
			} {
				if got := want[0]; !strings.Contains(got, want[1]) || want[1] == "" && got != "" {
					t.Errorf("%s: %q, want %q", what, got, want[1])
				}
			}
			if all := strings.Join(found, "\n"); !strings.Contains(all, c.found) {
				t.Errorf("found %q, want %q", all, c.found)
			}
		})
	}
}
