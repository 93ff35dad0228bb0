// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/proxy/proxytest"
	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/mockprovider"
)

// isolatedEnv makes the test binary run runIsolated. Its value is an isolatedTask.
const isolatedEnv = "TEST_ISOLATED"

// isolatedTask is what a process in a network namespace does.
type isolatedTask struct {
	Binary  string // gateway
	Key     string // for the API
	Bodies  []string
	Outside string // an address that only the proxy can reach
}

// loopbackFailed is the error of a namespace without privileges.
const loopbackFailed = "enabling the loopback interface"

// isolatedSocket is the file descriptor that connects the process in the namespace with the test.
const isolatedSocket = 3

// TestServeBehindProxyInItsOwnNetwork runs a gateway with TLS and client certificates in a network
// namespace that has nothing but a loopback interface. A listener in it is the only way out: the HTTP
// proxy that accepts there connects outside of the namespace.
func TestServeBehindProxyInItsOwnNetwork(t *testing.T) {
	mock := mockprovider.Start(t)
	folder := t.TempDir()
	files, err := mock.WriteFiles(folder)
	if err != nil {
		t.Fatal(err)
	}
	ready := mock.Ready(files)
	tokens, err := url.Parse(ready.TokenURL)
	if err != nil {
		t.Fatal(err)
	}
	key, hash := identity.NewKey()
	task, err := json.Marshal(isolatedTask{Binary: gatewayBinary, Key: key, Outside: ready.APNs, Bodies: []string{
		`{"platform":"apns","token":"00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0","title":"Hi"}`,
		`{"platform":"fcm","topic":"news","title":"Hi"}`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn, child, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	isolated := exec.CommandContext(ctx, self)
	isolated.Env = append(os.Environ(), isolatedEnv+"="+string(task))
	isolated.ExtraFiles = []*os.File{child}
	var stdout, stderr bytes.Buffer
	isolated.Stdout, isolated.Stderr = &stdout, &stderr
	isolated.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		isolated.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		isolated.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		isolated.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := isolated.Start(); err != nil {
		testtool.Missing(t, "this machine does not allow network namespaces: "+err.Error())
	}
	_ = child.Close()
	listener, err := receiveListener(conn)
	if err != nil {
		_ = isolated.Wait() // bounded by ctx
		if strings.Contains(stderr.String(), loopbackFailed) {
			testtool.Missing(t, "this machine does not allow network namespaces: "+stderr.String())
		}
		t.Fatalf("%v; %s", err, stderr.String())
	}
	proxy := proxytest.Start(t, proxytest.Config{Listener: listener, User: "gateway", Password: "secret-4711", Hosts: map[string]string{
		"api.push.apple.com:443": ready.APNs, "fcm.googleapis.com:443": strings.TrimPrefix(ready.FCM, "https://"), "oauth2.googleapis.com:443": tokens.Host,
	}})
	writeCertificate(t, folder)
	for name, text := range map[string]string{"proxy.txt": "gateway:secret-4711\n", "gateway.yaml": fmt.Sprintf(`listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
tls: {cert_file: server.pem, key_file: server.key, client_ca_file: server.pem}
proxy: {url: %q, credentials_file: proxy.txt}
log: {level: debug, format: json}
apps:
  shop:
    keys: [{name: test, hash: %q}]
    apns: {ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}
    fcm: {ca_file: %q, service_account_file: %q, token_url: "https://oauth2.googleapis.com/token"}
`, proxy.URL(), hash, ready.CAFile, ready.APNsKeyFile, ready.APNsKeyID, ready.APNsTeamID, ready.APNsTopic, ready.CAFile, ready.ServiceAccountFile)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fmt.Fprintln(conn, folder); err != nil {
		t.Fatal(err)
	}
	if err := isolated.Wait(); err != nil { // bounded by ctx
		t.Fatalf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	if strings.Contains(stderr.String(), "secret-4711") {
		t.Error("the log contains the password of the proxy")
	}
	if !strings.Contains(stderr.String(), `"caller":"gateway.example"`) {
		t.Errorf("the log does not name the caller:\n%s", stderr.String())
	}
	for _, service := range []string{mockprovider.APNs, mockprovider.FCM} {
		if n := mock.Ledger().Count(mockprovider.Query{Service: service}); n != 1 {
			t.Errorf("%d notifications have arrived at %s", n, service)
		}
	}
	for _, want := range []string{"api.push.apple.com:443", "fcm.googleapis.com:443", "oauth2.googleapis.com:443"} {
		if !slices.Contains(proxy.Seen(), want) {
			t.Errorf("the proxy has not connected to %s", want)
		}
	}
}

// socketPair returns two connected Unix sockets: one for this process and one for a child.
func socketPair() (conn *net.UnixConn, child *os.File, err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	conn, err = unixConn(pair[0])
	return conn, os.NewFile(uintptr(pair[1]), "child"), err
}

func unixConn(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "pair")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// receiveListener receives a listener that sendListener has sent.
func receiveListener(conn *net.UnixConn) (net.Listener, error) {
	_ = conn.SetReadDeadline(time.Now().Add(testTimeout))
	defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	control := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return nil, fmt.Errorf("no listener was sent: %w", err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "listener")
	defer file.Close()
	return net.FileListener(file)
}

func sendListener(conn *net.UnixConn, l net.Listener) error {
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer file.Close()
	_, _, err = conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(file.Fd())), nil)
	return err
}

// runIsolated runs in the namespace: it sends the listener for the proxy to the test, receives the
// folder of the configuration, starts the gateway, and calls it.
func runIsolated() int {
	var task isolatedTask
	err := json.Unmarshal([]byte(os.Getenv(isolatedEnv)), &task)
	if err == nil {
		err = task.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (task isolatedTask) run() error {
	if err := enableLoopback(); err != nil {
		return fmt.Errorf(loopbackFailed+": %w", err)
	}
	conn, err := unixConn(isolatedSocket)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := errors.Join(sendListener(conn, l), l.Close()); err != nil {
		return err
	}
	folder, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	folder = strings.TrimSpace(folder)
	if outside, err := net.DialTimeout("tcp", task.Outside, 5*time.Second); err == nil {
		return errors.Join(errors.New("the namespace is not isolated"), outside.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	gateway := exec.CommandContext(ctx, task.Binary, "serve", "-c", filepath.Join(folder, "gateway.yaml"))
	gateway.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := gateway.StderrPipe()
	if err != nil {
		return err
	}
	if err := gateway.Start(); err != nil {
		return err
	}
	address := make(chan string, 1)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer close(address)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			fmt.Fprintln(os.Stderr, lines.Text())
			if _, rest, found := strings.Cut(lines.Text(), `"msg":"serving","listen":"`); found {
				address <- strings.SplitN(rest, `"`, 2)[0]
			}
		}
	}()
	at := <-address // bounded by ctx, which ends the gateway and so its log
	if at == "" {
		return errors.Join(errors.New("the gateway does not serve"), gateway.Wait()) // bounded by ctx
	}
	err = task.call(folder, at)
	_ = gateway.Process.Signal(syscall.SIGTERM)
	<-copied                                // bounded by ctx
	return errors.Join(err, gateway.Wait()) // bounded by ctx
}

// enableLoopback does what `ip link set lo up` does.
func enableLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// call sends the notifications with the client certificate, after a call without it.
func (task isolatedTask) call(folder, address string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "server.pem"), filepath.Join(folder, "server.key"))
	if err != nil {
		return err
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "gateway.example", MinVersion: tls.VersionTLS12}
	cfg.RootCAs.AddCert(pair.Leaf)
	post := func(body string) (string, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true, DisableKeepAlives: true}, Timeout: time.Minute}
		request, err := http.NewRequest(http.MethodPost, "https://"+address+"/v1/apps/shop/notifications", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		request.Header.Set("Authorization", "Bearer "+task.Key)
		request.Header.Set("Content-Type", "application/json")
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return response.Proto + " " + response.Status + " " + string(text), err
	}
	if answer, err := post(task.Bodies[0]); err == nil {
		return fmt.Errorf("a client without a certificate got %s", answer)
	}
	cfg.Certificates = []tls.Certificate{pair}
	for _, body := range task.Bodies {
		answer, err := post(body)
		if err != nil || !strings.HasPrefix(answer, "HTTP/2.0 200 OK") || !strings.Contains(answer, `"status":"accepted"`) {
			return fmt.Errorf("got %s, %v", answer, err)
		}
	}
	return nil
}
