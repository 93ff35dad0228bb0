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

// gateway is one entry of the list: a name or an address, with what stands before and behind it.
type gateway struct {
	base *url.URL
	zone string // "" where the gateway tells it
}

func parseGateway(text, zone string) (gateway, error) {
	base, err := url.Parse(text)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Hostname() == "" ||
		strings.Trim(base.Path, "/") != "" || base.RawQuery != "" || base.User != nil {
		return gateway{}, errors.New("must be http://host:port or https://host, with nothing behind it")
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

// addresses looks the gateway up.
func (g gateway) addresses(ctx context.Context) (list []netip.AddrPort, err error) {
	if ip, err := netip.ParseAddr(g.base.Hostname()); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), g.port())}, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", g.base.Hostname())
	for _, ip := range found {
		list = append(list, netip.AddrPortFrom(ip.Unmap(), g.port()))
	}
	return list, err
}

// resolver knows where the gateways are, and in which zones.
type resolver struct {
	file string

	// Only Resolve uses these, and the pool calls it from one goroutine.
	gateways  []gateway
	version   fileVersion                 // of the file, when it was read
	lastAddrs map[string][]netip.AddrPort // the last good answer for each host

	byAddr        sync.Map // netip.AddrPort to gateway
	reportedZones sync.Map // netip.AddrPort to the zone that the gateway told
}

// fileVersion tells one version of a file from the next.
type fileVersion struct {
	modTime time.Time
	size    int64
}

var _ pool.Resolver = (*resolver)(nil)

const (
	fileCheckInterval = time.Second // a file is looked at that often; that also finds it behind a symbolic link that was turned
	lookupInterval    = 5 * time.Second
)

// Resolve names the addresses of all gateways. One that cannot be looked up stays what it was.
func (f *resolver) Resolve(ctx context.Context) (list []netip.AddrPort, ttl time.Duration, err error) {
	ttl = lookupInterval
	if f.file != "" {
		ttl = fileCheckInterval
		if err := f.reloadFile(); err != nil {
			return nil, ttl, err
		}
	}
	if f.lastAddrs == nil {
		f.lastAddrs = map[string][]netip.AddrPort{}
	}
	for _, g := range f.gateways {
		found, lost := g.addresses(ctx)
		if lost != nil {
			err = lost
			found = f.lastAddrs[g.base.Host]
		}
		f.lastAddrs[g.base.Host] = found
		for _, addr := range found {
			f.byAddr.Store(addr, g)
		}
		list = append(list, found...)
	}
	if len(list) > 0 {
		err = nil
	}
	return list, ttl, err
}

// reloadFile reads the file if it is not the one that was read last.
func (f *resolver) reloadFile() error {
	info, err := os.Stat(f.file)
	if err != nil {
		return err
	}
	now := fileVersion{info.ModTime(), info.Size()}
	if now == f.version {
		return nil
	}
	text, err := os.ReadFile(f.file)
	if err != nil {
		return err
	}
	gateways, err := parseFile(text)
	if err != nil {
		return fmt.Errorf("%s: %w", f.file, err)
	}
	f.gateways, f.version = gateways, now
	return nil
}

// parseFile reads a list of gateways, as a whole or not at all.
func parseFile(text []byte) (list []gateway, err error) {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line, _, _ = bytes.Cut(line, []byte("#"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			continue
		}
		g, err := parseGateway(words[0], strings.Join(words[1:], " "))
		if err != nil || len(words) > 2 {
			return nil, fmt.Errorf("line %d: must be a gateway's URL, and its zone behind it or nothing", number)
		}
		list = append(list, g)
	}
	return list, nil
}

// gatewayAt returns the gateway that an address belongs to.
func (f *resolver) gatewayAt(addr netip.AddrPort) gateway {
	g, _ := f.byAddr.Load(addr)
	known, _ := g.(gateway)
	return known
}

// zone tells where an address is: as the list says, or else as the gateway does.
func (f *resolver) zone(addr netip.AddrPort) string {
	if g := f.gatewayAt(addr); g.zone != "" {
		return g.zone
	}
	told, _ := f.reportedZones.Load(addr)
	zone, _ := told.(string)
	return zone
}
