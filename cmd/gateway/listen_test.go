// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testtool"
)

// writeCertificate writes server.pem and server.key, a new certificate for gateway.example, to a folder.
func writeCertificate(t *testing.T, folder string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "gateway.example"}, DNSNames: []string{"gateway.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"server.pem": {Type: "CERTIFICATE", Bytes: cert}, "server.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// writeServeConfig writes a configuration with an app, and the files that it needs.
func writeServeConfig(t *testing.T, more string) (file string) {
	t.Helper()
	file = writeTemp(t, "gateway.yaml", more+strings.SplitAfterN(fmt.Sprintf(webPushConfig, 100), "\n", 3)[2])
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "vapid.pem"), []byte(pair[strings.Index(pair, "-----"):]), 0o600); err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, filepath.Dir(file))
	return file
}

// TestAuditAsksARunningGateway uses an admin listener with TLS.
func TestAuditAsksARunningGateway(t *testing.T) {
	admin := fmt.Sprintf("{listen: %q, tls: {cert_file: server.pem, key_file: server.key}}", freeAddress(t))
	file := writeServeConfig(t, "listen: 127.0.0.1:0\nqueue: {dir: queue}\nadmin: "+admin+"\n")
	startGateway(t, nil, "serve", "-c", file).servingAt()
	if code, stdout, stderr := runGateway(t, nil, "audit", "-c", file); code != 0 || !strings.Contains(stdout, "ended exactly once") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
}

// TestServeUnderSystemd plays systemd: it passes the sockets and receives the states.
func TestServeUnderSystemd(t *testing.T) {
	testtool.Require(t, "sh")
	file := writeServeConfig(t, "listen: systemd:api.socket\nadmin: {listen: systemd:admin.socket}\n")
	var passed []*os.File
	var address string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = l.Addr().String()
		socket, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		defer socket.Close()
		passed = append(passed, socket)
	}
	folder, err := os.MkdirTemp("", "s") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	p := startCommand(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = passed
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String(), "LISTEN_FDS=2", "LISTEN_FDNAMES=admin.socket:api.socket")
	}, "sh", "-c", `LISTEN_PID=$$ exec "$0" serve -c "$1"`, gatewayBinary, file)
	wait := func(prefix string) { // other messages can come before it: a reload at the start changes nothing
		t.Helper()
		_ = notify.SetReadDeadline(time.Now().Add(testTimeout))
		for message := ""; !strings.HasPrefix(message, prefix); {
			buffer := make([]byte, 4096)
			n, err := notify.Read(buffer)
			if err != nil {
				t.Fatalf("waited for %q: %v; %s", prefix, err, p.stderr.String())
			}
			message = string(buffer[:n])
		}
	}
	wait("READY=1")
	response, err := http.Get("http://" + address + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	if response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Error(response.Status)
	}
	p.signal(syscall.SIGHUP)
	wait("RELOADING=1\nMONOTONIC_USEC=")
	wait("READY=1")
	p.signal(syscall.SIGTERM)
	wait("STOPPING=1")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
}

// TestAuditOverASocket uses an admin listener on a Unix socket.
func TestAuditOverASocket(t *testing.T) {
	folder, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	file := writeServeConfig(t, "listen: 127.0.0.1:0\nqueue: {dir: queue}\nadmin: {listen: 'unix:"+folder+"/admin'}\n")
	startGateway(t, nil, "serve", "-c", file).servingAt()
	if code, stdout, stderr := runGateway(t, nil, "audit", "-c", file); code != 0 || !strings.Contains(stdout, "ended exactly once") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
}

// TestServeReloadsItsCertificate writes a new certificate and then a broken one.
func TestServeReloadsItsCertificate(t *testing.T) {
	file := writeServeConfig(t, "listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\ntls: {cert_file: server.pem, key_file: server.key}\n")
	p := startGateway(t, nil, "serve", "-c", file)
	p.servingAt()
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "server.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.waitForLog("configuration not reloaded; the previous one stays in use", "tls.cert_file")
	writeCertificate(t, filepath.Dir(file))
	p.waitForLog("configuration reloaded", "tls: new certificates")
}
