// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errUnparsable is the error of all UnmarshalText methods below. The decoder adds what is allowed.
var errUnparsable = errors.New("not a valid value of this kind")

// Address is where to listen: host:port, unix:/path, or systemd:NAME for a socket that systemd has
// opened. An empty host means all interfaces; port 0 means any free port.
type Address string

// maxSocketPath is the longest path of a Unix socket that all systems allow.
const maxSocketPath = 100

// Split returns the network, which is tcp, unix or systemd, and the address in it.
func (a Address) Split() (network, address string) {
	for _, network := range []string{"unix", "systemd"} {
		if address, found := strings.CutPrefix(string(a), network+":"); found {
			return network, address
		}
	}
	return "tcp", string(a)
}

var isSocketName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`).MatchString

// UnmarshalText parses the address.
func (a *Address) UnmarshalText(text []byte) error {
	switch network, address := Address(text).Split(); {
	case network == "unix" && (!path.IsAbs(address) || len(address) > maxSocketPath), network == "systemd" && !isSocketName(address):
		return errUnparsable
	case network != "tcp":
		*a = Address(text)
		return nil
	}
	_, port, err := net.SplitHostPort(string(text))
	if err != nil {
		return errUnparsable
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errUnparsable
	}
	*a = Address(text)
	return nil
}

// Endpoint is one address of a service, ip:port.
type Endpoint struct{ netip.AddrPort }

// UnmarshalText parses ip:port.
func (e *Endpoint) UnmarshalText(text []byte) error {
	addr, err := netip.ParseAddrPort(string(text))
	if err != nil || addr.Port() == 0 {
		return errUnparsable
	}
	e.AddrPort = addr
	return nil
}

// Network is an IP network, such as 10.0.0.0/8.
type Network string

// UnmarshalText parses an address and its prefix length.
func (n *Network) UnmarshalText(text []byte) error {
	prefix, err := netip.ParsePrefix(string(text))
	if err != nil {
		return errUnparsable
	}
	*n = Network(prefix.Masked().String())
	return nil
}

// ProxyURL is scheme://host:port of a proxy, or none.
type ProxyURL string

// NoProxyURL means that connections are direct.
const NoProxyURL ProxyURL = "none"

// UnmarshalText parses none, or a URL of a proxy with a port and nothing after it. It accepts no user
// and password, because the configuration is no place for a secret.
func (p *ProxyURL) UnmarshalText(text []byte) error {
	if *p = ProxyURL(text); *p == NoProxyURL {
		return nil
	}
	v, err := url.Parse(strings.TrimSuffix(string(text), "/"))
	if err != nil || !slices.Contains([]string{"http", "https", "socks5"}, v.Scheme) || v.Hostname() == "" || v.User != nil || v.Path != "" ||
		strings.ContainsAny(string(text), "?#") || !isPort(v.Port()) {
		return errUnparsable
	}
	*p = ProxyURL(v.Scheme + "://" + strings.ToLower(v.Host))
	return nil
}

// NoProxy is a name, an IP address or a network that is connected to without a proxy.
type NoProxy string

// isHostName matches a host name; a dot at its start means its subdomains.
var isHostName = regexp.MustCompile(`^\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*$`).MatchString

// UnmarshalText parses a host name, an IP address or a network. *.name is the same as .name.
func (n *NoProxy) UnmarshalText(text []byte) error {
	word := strings.TrimPrefix(strings.ToLower(string(text)), "*")
	_, notAddress := netip.ParseAddr(word)
	_, notNetwork := netip.ParsePrefix(word)
	if notAddress != nil && notNetwork != nil && !isHostName(word) {
		return errUnparsable
	}
	*n = NoProxy(word)
	return nil
}

// Base is the base URL of a service: https://host or https://host:port. The protocol defines the
// path. Providers are never called without TLS.
type Base string

// UnmarshalText parses an https URL with nothing after the port. It removes a trailing slash and
// the port 443.
func (b *Base) UnmarshalText(text []byte) error {
	v, err := httpsURL(strings.TrimSuffix(string(text), "/"))
	if err != nil || v.Path != "" {
		return errUnparsable
	}
	*b = Base("https://" + strings.TrimSuffix(strings.ToLower(v.Host), ":443"))
	return nil
}

// URL is an absolute https URL without user, query or fragment.
type URL string

// UnmarshalText parses an https URL.
func (u *URL) UnmarshalText(text []byte) error {
	v, err := httpsURL(string(text))
	if err != nil {
		return errUnparsable
	}
	*u = URL(v.String())
	return nil
}

// ConsoleURL is the URL of the console in browsers.
type ConsoleURL string

// UnmarshalText parses an https URL with the path /console/, or an http URL of this machine.
func (u *ConsoleURL) UnmarshalText(text []byte) error {
	v, err := url.Parse(string(text))
	if err != nil {
		return errUnparsable
	}
	if address, err := netip.ParseAddr(v.Hostname()); v.Scheme == "http" && (v.Hostname() == "localhost" || err == nil && address.IsLoopback()) {
		v.Scheme = "https"
	}
	if v.Path != "/console/" || v.RawPath != "" {
		return errUnparsable
	}
	if _, err := httpsURL(v.String()); err != nil || strings.ContainsAny(string(text), "?#") {
		return errUnparsable
	}
	*u = ConsoleURL(text)
	return nil
}

// TracesURL is the URL of a receiver of traces.
type TracesURL string

// UnmarshalText parses an http or https URL without user, query and fragment.
func (u *TracesURL) UnmarshalText(text []byte) error {
	v, err := url.Parse(string(text))
	if err == nil && v.Scheme == "http" {
		v.Scheme = "https"
	}
	if err == nil {
		_, err = httpsURL(v.String())
	}
	if err != nil {
		return errUnparsable
	}
	*u = TracesURL(text)
	return nil
}

func httpsURL(text string) (*url.URL, error) {
	v, err := url.Parse(text)
	if err != nil || v.Scheme != "https" || v.Hostname() == "" || v.User != nil || strings.ContainsAny(text, "?#") {
		return nil, errUnparsable
	}
	if port := v.Port(); port != "" && !isPort(port) {
		return nil, errUnparsable
	}
	return v, nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// File is the path of a file. A relative path in the configuration file starts at the folder of
// that file; one in the environment starts at the working directory.
type File string

// Time is a point in time: RFC 3339, or a date, which means its start in UTC. The zero Time is none.
type Time struct{ time.Time }

// UnmarshalText parses a date or a time.
func (t *Time) UnmarshalText(text []byte) (err error) {
	layout := time.RFC3339
	if len(text) == len(time.DateOnly) {
		layout = time.DateOnly
	}
	t.Time, err = time.Parse(layout, string(text))
	return err
}

// Bytes is a size, written with a unit: 512KiB, 1MiB, 2GiB (powers of 1024) or 1MB (powers of
// 1000).
type Bytes int64

// byteUnits lists the units in the order in which suffixes are compared: longer ones first.
var byteUnits = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// UnmarshalText parses a whole number and its unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	for _, unit := range byteUnits {
		digits, found := strings.CutSuffix(string(text), unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || int64(n) > math.MaxInt64/unit.size {
			return errUnparsable
		}
		*b = Bytes(int64(n) * unit.size)
		return nil
	}
	return errUnparsable
}

// Percent is a percentage as a fraction: 10% is 0.1.
type Percent float64

// UnmarshalText parses a number and a percent sign.
func (p *Percent) UnmarshalText(text []byte) error {
	digits, found := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if !found || err != nil || !(n >= 0 && n <= 1e6) {
		return errUnparsable
	}
	*p = Percent(n / 100)
	return nil
}

// Rate is a number of events per unit of time, such as 600000/min. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

var rateUnits = map[string]time.Duration{"s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// UnmarshalText parses a whole number above zero, a slash and s, min, h or d; or none.
func (r *Rate) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*r = Rate{}
		return nil
	}
	digits, unit, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 31)
	per, known := rateUnits[strings.TrimSpace(unit)]
	if err != nil || n == 0 || !known {
		return errUnparsable
	}
	*r = Rate{Count: int(n), Per: per}
	return nil
}

// PerSecond returns the rate in events per second, 0 for no limit.
func (r Rate) PerSecond() float64 {
	if r.Per == 0 {
		return 0
	}
	return float64(r.Count) / r.Per.Seconds()
}
