// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// maxSize limits Config.Size. A larger pool would only open more connections to the same provider.
const maxSize = 1024

// validate returns an error that names the invalid field and what is allowed.
func (c *Config) validate() error {
	switch {
	case c.Resolver == nil:
		return errors.New("a Resolver is required (pool.System, pool.DNS or pool.Static)")
	case c.Dial == nil:
		return errors.New("a Dial is required (wire.Dial fits)")
	case c.Size < 0 || c.Size > maxSize:
		return fmt.Errorf("field Size is %d: must be 1 to %d, or 0 for 8", c.Size, maxSize)
	case c.ConnsPerEndpoint < 0 || c.ConnsPerEndpoint > 64:
		return fmt.Errorf("field ConnsPerEndpoint is %d: must be 1 to 64, or 0 for 1", c.ConnsPerEndpoint)
	case c.MaxInFlight < 0:
		return fmt.Errorf("field MaxInFlight is %d: must be positive, or 0 for 64", c.MaxInFlight)
	case c.MaxAge < 0 || c.DrainTimeout < 0 || c.MaxRedialDelay < 0 || c.IdleTimeout < 0:
		return errors.New("neither MaxAge nor DrainTimeout nor MaxRedialDelay nor IdleTimeout may be negative (0 means the default)")
	case c.MaxEjected < 0 || c.MaxEjected > 1:
		return fmt.Errorf("field MaxEjected is %g: must be a share up to 1, or 0 for 0.5", c.MaxEjected)
	}
	return errors.Join(c.Breaker.validate(), c.Outlier.validate())
}

func (c *Config) setDefaults() {
	c.Size = cmp.Or(c.Size, 8)
	c.ConnsPerEndpoint = cmp.Or(c.ConnsPerEndpoint, 1)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, 64)
	c.MaxAge = cmp.Or(c.MaxAge, 10*time.Minute)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 10*time.Second)
	c.MaxRedialDelay = cmp.Or(c.MaxRedialDelay, 5*time.Minute)
	c.MaxEjected = cmp.Or(c.MaxEjected, 0.5) // Envoy's default panic threshold is also 50 %
	c.Breaker.setDefaults()
	c.Outlier.setDefaults()
	if c.Picker == nil {
		c.Picker = RoundRobin{}
	}
	if c.EndpointName == nil {
		c.EndpointName = netip.AddrPort.String
	}
	if c.Zone == nil {
		c.Zone = func(netip.AddrPort) string { return "" }
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
