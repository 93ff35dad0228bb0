// SPDX-License-Identifier: Apache-2.0

// Package proxytest runs HTTP CONNECT and SOCKS5 proxies for tests. Only tests import it.
package proxytest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Config configures a proxy.
type Config struct {
	// Scheme is http, https or socks5. Empty means http.
	Scheme string
	// User and Password are required from clients unless User is empty.
	User, Password string
	// Hosts are the addresses of names, both as host:port. Other addresses are connected to as they are.
	Hosts map[string]string
	// Listener accepts the clients; nil means a new one on a loopback port.
	Listener net.Listener
}

// TB is the part of testing.TB that the package needs.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}

// Proxy is a running proxy.
type Proxy struct {
	cfg      Config
	listener net.Listener
	cert     tls.Certificate

	mu      sync.Mutex
	refusal int // HTTP status
	seen    []string
	conns   map[net.Conn]bool
}

// Start runs a proxy until the test ends.
func Start(t TB, cfg Config) *Proxy {
	t.Helper()
	p := &Proxy{cfg: cfg, listener: cfg.Listener, conns: map[net.Conn]bool{}}
	if p.cfg.Scheme == "" {
		p.cfg.Scheme = "http"
	}
	var err error
	if p.listener == nil {
		if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	if p.cfg.Scheme == "https" {
		if p.cert, err = selfSigned(); err != nil {
			t.Fatal(err)
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := p.listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.CloseConns()
		running.Wait()
	})
	return p
}

// Address returns the host and port of the proxy.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// URL returns the URL of the proxy, without credentials.
func (p *Proxy) URL() string { return p.cfg.Scheme + "://" + p.Address() }

// Certificate returns the certificate of an https proxy.
func (p *Proxy) Certificate() *x509.Certificate { return p.cert.Leaf }

// Seen returns the addresses that clients asked for, in order.
func (p *Proxy) Seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// Refuse makes the proxy refuse further connections with an HTTP status, or with SOCKS5 as not
// allowed. 0 ends that.
func (p *Proxy) Refuse(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal = status
}

// CloseConns closes all connections, as a proxy that restarts does.
func (p *Proxy) CloseConns() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// track records an open connection until the returned function is called.
func (p *Proxy) track(conn net.Conn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = true
	return func() {
		_ = conn.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, conn)
	}
}

func (p *Proxy) serve(conn net.Conn) {
	defer p.track(conn)()
	var peer net.Conn
	var err error
	switch p.cfg.Scheme {
	case "socks5":
		peer, err = p.acceptSOCKS(conn)
	case "https":
		conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{p.cert}})
		peer, err = p.acceptHTTP(conn)
	default:
		peer, err = p.acceptHTTP(conn)
	}
	if err != nil {
		return
	}
	defer p.track(peer)()
	var copying sync.WaitGroup
	copying.Go(func() { forward(peer, conn) })
	copying.Go(func() { forward(conn, peer) })
	copying.Wait()
}

// forward copies until the source ends.
func forward(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
}

// open connects to an address that a client asked for. status is the refusal, if any.
func (p *Proxy) open(address string) (conn net.Conn, status int) {
	p.mu.Lock()
	p.seen = append(p.seen, address)
	status = p.refusal
	p.mu.Unlock()
	if status != 0 {
		return nil, status
	}
	if known := p.cfg.Hosts[address]; known != "" {
		address = known
	}
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, http.StatusBadGateway
	}
	return conn, 0
}

var errRefused = errors.New("proxytest: refused")

func (p *Proxy) acceptHTTP(conn net.Conn) (net.Conn, error) {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return nil, err
	}
	status := http.StatusMethodNotAllowed
	var peer net.Conn
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.cfg.User+":"+p.cfg.Password)); p.cfg.User != "" && request.Header.Get("Proxy-Authorization") != want {
		status = http.StatusProxyAuthRequired
	} else if request.Method == http.MethodConnect {
		peer, status = p.open(request.Host)
	}
	if peer == nil {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n", status)
		return nil, errRefused
	}
	_, err = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	return peer, err
}

// acceptSOCKS implements RFC 1928 and RFC 1929 as far as clients of this module use them.
func (p *Proxy) acceptSOCKS(conn net.Conn) (net.Conn, error) {
	methods, err := readSized(conn, 1)
	if err != nil {
		return nil, err
	}
	method := byte(0)
	if p.cfg.User != "" {
		method = 2
	}
	if !slices.Contains(methods, method) {
		_, _ = conn.Write([]byte{5, 0xff})
		return nil, errRefused
	}
	if _, err := conn.Write([]byte{5, method}); err != nil {
		return nil, err
	}
	if method == 2 {
		user, err := readSized(conn, 1)
		if err != nil {
			return nil, err
		}
		password, err := readSized(conn, 0)
		if err != nil {
			return nil, err
		}
		if string(user) != p.cfg.User || string(password) != p.cfg.Password {
			_, _ = conn.Write([]byte{1, 1})
			return nil, errRefused
		}
		if _, err := conn.Write([]byte{1, 0}); err != nil {
			return nil, err
		}
	}
	address, err := readAddress(conn)
	if err != nil {
		return nil, err
	}
	peer, status := p.open(address)
	reply := byte(0)
	switch status {
	case 0:
	case http.StatusBadGateway:
		reply = 5 // connection refused
	default:
		reply = 2 // not allowed
	}
	if _, err := conn.Write([]byte{5, reply, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil || peer == nil {
		return nil, errRefused
	}
	return peer, nil
}

// readSized skips bytes, and then reads a length and as many bytes.
func readSized(r io.Reader, skip int) ([]byte, error) {
	header := make([]byte, skip+1)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	text := make([]byte, header[skip])
	_, err := io.ReadFull(r, text)
	return text, err
}

// readAddress reads a CONNECT request of SOCKS5.
func readAddress(r io.Reader) (string, error) {
	header := make([]byte, 4)
	if _, err := io.ReadFull(r, header); err != nil {
		return "", err
	}
	var host string
	switch header[3] {
	case 3:
		name, err := readSized(r, 0)
		if err != nil {
			return "", err
		}
		host = string(name)
	case 1, 4:
		ip := make(net.IP, map[byte]int{1: 4, 4: 16}[header[3]])
		if _, err := io.ReadFull(r, ip); err != nil {
			return "", err
		}
		host = ip.String()
	}
	port := make([]byte, 2)
	if _, err := io.ReadFull(r, port); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port)))), nil
}

// selfSigned returns a certificate for 127.0.0.1.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	parsed, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}, err
}
