// SPDX-License-Identifier: Apache-2.0

package keyfile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/keyfile"
	"github.com/sluice-push/sluice/internal/testtool"
)

func TestTextRemovesByteOrderMark(t *testing.T) {
	for content, want := range map[string]string{
		"": "", "plain é\x00": "plain é\x00", "\xef\xbb\xbfa": "a", "\xef\xbb\xbf": "", "a\xef\xbb\xbf": "a\xef\xbb\xbf",
		"\xff\xfea\x00\xe9\x00": "aé", "\xfe\xff\x00a\xd8\x3d\xde\x00": "a😀", "\xff\xfe": "", "\xff\xfea": "\xff\xfea",
	} {
		if got := string(keyfile.Text([]byte(content))); got != want {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
}

// block returns a PEM block. Its content does not matter.
func block(kind string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("SECRETSECRETSECRETSECRET")}))
}

// der returns a key in PKCS #8 and a certificate of it, both in DER.
func der(t *testing.T) (key, certificate []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0)}
	if certificate, err = x509.CreateCertificate(rand.Reader, template, template, private.Public(), private); err != nil {
		t.Fatal(err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

func TestErrorNamesFormatAndCommand(t *testing.T) {
	key, certificate := der(t)
	publicKey, err := x509.MarshalPKIXPublicKey(func() any { c, _ := x509.ParseCertificate(certificate); return c.PublicKey }())
	if err != nil {
		t.Fatal(err)
	}
	legacy := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: key}))
	for _, c := range []struct{ name, content, key, certificate string }{
		{"encrypted", block("ENCRYPTED PRIVATE KEY"), "an encrypted private key: decrypt it with: openssl pkey -in FILE", "use the file of the certificate"},
		{"encrypted as before PKCS #8", legacy, "an encrypted private key: decrypt it with: openssl pkey -in FILE", "an encrypted private key"},
		{"SEC 1", block("EC PARAMETERS") + block("EC PRIVATE KEY"), "an elliptic curve key in SEC 1: convert it with: openssl pkcs8 -topk8 -nocrypt -in FILE -out key.p8", "SEC 1"},
		{"PKCS #1", block("RSA PRIVATE KEY"), "an RSA key in PKCS #1", "an RSA key"},
		{"public key", block("PUBLIC KEY"), "a public key: use the file of its private key", "a public key"},
		{"public key in DER", string(publicKey), "a public key", "a public key"},
		{"certificate", block("CERTIFICATE"), "a certificate: use the file of its private key", ""},
		{"certificate in DER", string(certificate), "a certificate in DER (.cer)", "openssl x509 -inform DER -in FILE"},
		{"request", block("CERTIFICATE REQUEST"), "a certificate signing request", "the file that Apple issued"},
		{"PKCS #7", block("PKCS7"), "a PKCS #7 file", "openssl pkcs7 -print_certs"},
		{"OpenSSH", block("OPENSSH PRIVATE KEY"), "ssh-keygen -p -N '' -m PKCS8", "OpenSSH"},
		{"PGP", block("PGP PRIVATE KEY BLOCK"), "a PEM file of another kind", "a PEM file of another kind"},
		{"PKCS #12", "\x30\x82\x03\xfc\x02\x01\x03\x30SECRET", "a PKCS #12 file (.p12 or .pfx): get the key with: openssl pkcs12 -in FILE -nocerts", "openssl pkcs12 -in FILE -clcerts -nokeys"},
		{"PKCS #12 of indefinite length", "\x30\x80\x02\x01\x03\x30SECRET", "a PKCS #12 file", "a PKCS #12 file"},
		{"DER", string(key), "a private key in DER: convert it with: openssl pkey -inform DER", "a private key in DER"},
		{"binary", "0SECRET", "a binary file", "a binary file"},
		{"JSON", `{"private_key":"SECRET"}`, "JSON", "JSON"},
		{"property list", "<?xml version=\"1.0\"?><plist>SECRET</plist>", "a property list", "a property list"},
		{"base64 of PEM", base64.StdEncoding.EncodeToString([]byte(block("PRIVATE KEY"))), "the base64 of a PEM file: decode it with: openssl base64 -d -A", "openssl base64 -d -A"},
		{"base64 of DER", base64.StdEncoding.EncodeToString(key), "base64 without the BEGIN and END lines", "base64 without the BEGIN and END lines"},
		{"escaped line breaks", strings.ReplaceAll(block("PRIVATE KEY"), "\n", `\n`), `the characters \n instead of line breaks`, `\n instead`},
		{"truncated", block("PRIVATE KEY")[:40], "without an END line (is it truncated?)", "truncated"},
		{"UTF-16", "-\x00-\x00B\x00E\x00", "text in UTF-16", "text in UTF-16"},
		{"empty", " \n", "but it is empty", "but it is empty"},
		{"unknown", "SECRET text", "the file must have a PEM block PRIVATE KEY", "the file must have a PEM block CERTIFICATE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, keyErr := keyfile.Key([]byte(c.content), "PRIVATE KEY")
			for want, err := range map[string]error{c.key: keyErr, c.certificate: keyfile.CheckCertificate([]byte(c.content))} {
				switch {
				case want == "" && err != nil || want != "" && err == nil:
					t.Errorf("%v, want %q", err, want)
				case err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET")):
					t.Errorf("%v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestKeyFindsBlockAmongOthers(t *testing.T) {
	text := block("CERTIFICATE") + block("EC PARAMETERS") + "Bag Attributes\r\n" + strings.ReplaceAll(block("EC PRIVATE KEY"), "\n", "\r\n")
	if found, err := keyfile.Key([]byte(text), "PRIVATE KEY", "EC PRIVATE KEY"); err != nil || found.Type != "EC PRIVATE KEY" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestCommandsConvert runs the commands of the errors on files that OpenSSL wrote.
func TestCommandsConvert(t *testing.T) {
	testtool.Require(t, "openssl")
	dir := t.TempDir()
	run := func(command string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	run(`openssl ecparam -name prime256v1 -genkey -out sec1
openssl pkcs8 -topk8 -nocrypt -in sec1 -out p8
openssl pkcs8 -topk8 -in sec1 -passout pass:abcd -out encrypted
openssl ec -in sec1 -aes128 -passout pass:abcd -out legacy
openssl pkcs8 -topk8 -nocrypt -in sec1 -outform DER -out der
openssl pkcs8 -topk8 -in sec1 -passout pass:abcd -outform DER -out encryptedder
openssl req -x509 -key p8 -subj /CN=x -days 3 -out cert
openssl x509 -in cert -outform DER -out certder
openssl crl2pkcs7 -nocrl -certfile cert -out p7b
openssl pkcs12 -export -in cert -inkey p8 -passout pass:abcd -out p12
openssl base64 -A -in p8 -out base64`)
	command := func(err error) string {
		_, after, found := strings.Cut(err.Error(), "with: ")
		if !found {
			t.Fatalf("no command in %v", err)
		}
		after, _, _ = strings.Cut(after, " (")
		if strings.Contains(after, "pkcs12") || strings.Contains(err.Error(), "encrypted") {
			after += " -passin pass:abcd"
		}
		return after
	}
	for _, name := range []string{"sec1", "encrypted", "legacy", "der", "encryptedder", "p12", "base64"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		_, keyErr := keyfile.Key(content, "PRIVATE KEY")
		if keyErr == nil {
			t.Fatalf("%s has a key", name)
		}
		run(strings.ReplaceAll(command(keyErr), "FILE", name))
		output := map[bool]string{true: "key.p8", false: "key.pem"}[strings.Contains(keyErr.Error(), "key.p8")]
		converted, err := os.ReadFile(filepath.Join(dir, output))
		if err != nil {
			t.Fatal(err)
		}
		found, err := keyfile.Key(converted, "PRIVATE KEY")
		if err != nil {
			t.Fatalf("%s after %v: %v", name, keyErr, err)
		}
		if _, err := x509.ParsePKCS8PrivateKey(found.Bytes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"certder", "p7b", "p12"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		run(strings.ReplaceAll(command(keyfile.CheckCertificate(content)), "FILE", name))
		converted, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
		if err != nil || keyfile.CheckCertificate(converted) != nil {
			t.Errorf("%s: %v, %v", name, err, keyfile.CheckCertificate(converted))
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add([]byte(block("PRIVATE KEY")))
	f.Add([]byte("\x30\x80\x02\x01\x03"))
	f.Add([]byte("\xff\xfe-\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		text := keyfile.Text(content)
		found, err := keyfile.Key(text, "PRIVATE KEY")
		if err == nil && found.Type != "PRIVATE KEY" {
			t.Errorf("%+v", found)
		}
		_ = keyfile.CheckCertificate(text)
		if described := keyfile.Describe(text); len(content) > 40 && bytes.Contains([]byte(described), content) {
			t.Errorf("%q", described)
		}
	})
}
