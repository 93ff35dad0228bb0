// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// gateway is one entry of the list of gateways.
type gateway struct {
	base *url.URL
	zone string // "" if the gateway reports its zone
}

func parseGateway(text, zone string) (gateway, error) {
	base, err := url.Parse(text)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Hostname() == "" ||
		strings.Trim(base.Path, "/") != "" || base.RawQuery != "" || base.User != nil {
		return gateway{}, errors.New("must be http://host:port or https://host, with nothing after it")
	}
	return gateway{&url.URL{Scheme: base.Scheme, Host: base.Host}, zone}, nil
}

func (g gateway) port() uint16 {
	if port, err := strconv.ParseUint(g.base.Port(), 10, 16); err == nil {
		return uint16(port)
	}
	if g.base.Scheme == "http" {
		return 80
	}
	return 443
}

// addresses resolves the gateway's name.
func (g gateway) addresses(ctx context.Context) (list []netip.AddrPort, err error) {
	if ip, err := netip.ParseAddr(g.base.Hostname()); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), g.port())}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", g.base.Hostname())
	for _, ip := range ips {
		list = append(list, netip.AddrPortFrom(ip.Unmap(), g.port()))
	}
	return list, err
}

// resolver provides the addresses and zones of the gateways.
type resolver struct {
	file string

	// Only Resolve uses these fields, and the pool calls it from one goroutine.
	gateways  []gateway
	version   fileVersion                 // of the file as last read
	lastAddrs map[string][]netip.AddrPort // the last successful result for each host

	byAddr        sync.Map // netip.AddrPort to gateway
	reportedZones sync.Map // netip.AddrPort to the zone that the gateway reports
}

// fileVersion identifies the content of a file.
type fileVersion struct {
	modTime time.Time
	size    int64
}

var _ pool.Resolver = (*resolver)(nil)

const (
	fileCheckInterval = time.Second // a check also detects that a symbolic link changed
	lookupInterval    = 5 * time.Second
)

// Resolve returns the addresses of all gateways. A name that cannot be resolved keeps its last
// addresses.
func (r *resolver) Resolve(ctx context.Context) (list []netip.AddrPort, ttl time.Duration, err error) {
	ttl = lookupInterval
	if r.file != "" {
		ttl = fileCheckInterval
		if err := r.reloadFile(); err != nil {
			return nil, ttl, err
		}
	}
	if r.lastAddrs == nil {
		r.lastAddrs = map[string][]netip.AddrPort{}
	}
	for _, g := range r.gateways {
		addrs, lookupErr := g.addresses(ctx)
		if lookupErr != nil {
			err = lookupErr
			addrs = r.lastAddrs[g.base.Host]
		}
		r.lastAddrs[g.base.Host] = addrs
		for _, addr := range addrs {
			r.byAddr.Store(addr, g)
		}
		list = append(list, addrs...)
	}
	if len(list) > 0 {
		err = nil
	}
	return list, ttl, err
}

// reloadFile reads the file if it has changed.
func (r *resolver) reloadFile() error {
	info, err := os.Stat(r.file)
	if err != nil {
		return err
	}
	version := fileVersion{info.ModTime(), info.Size()}
	if version == r.version {
		return nil
	}
	text, err := os.ReadFile(r.file)
	if err != nil {
		return err
	}
	gateways, err := parseFile(text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	r.gateways, r.version = gateways, version
	return nil
}

// parseFile parses a list of gateways. A single invalid line makes the whole file invalid.
func parseFile(text []byte) (list []gateway, err error) {
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) { // a byte order mark
		number++
		line, _, _ = bytes.Cut(line, []byte("#"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			continue
		}
		g, err := parseGateway(words[0], strings.Join(words[1:], " "))
		if err != nil || len(words) > 2 {
			return nil, fmt.Errorf("line %d: must be the URL of a gateway, optionally followed by its zone", number)
		}
		list = append(list, g)
	}
	return list, nil
}

// gatewayAt returns the gateway that has an address.
func (r *resolver) gatewayAt(addr netip.AddrPort) gateway {
	g, _ := r.byAddr.Load(addr)
	gw, _ := g.(gateway)
	return gw
}

// zone returns the zone of an address: the one in the list, otherwise the one that the gateway
// reports.
func (r *resolver) zone(addr netip.AddrPort) string {
	if g := r.gatewayAt(addr); g.zone != "" {
		return g.zone
	}
	reported, _ := r.reportedZones.Load(addr)
	zone, _ := reported.(string)
	return zone
}
