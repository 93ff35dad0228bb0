// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"maps"
	"slices"

	"golang.org/x/net/http2"
)

// limit is how many streams a connection may have open, and what the client knows of it.
type limit struct {
	usual     int   // without faults
	forced    int   // by a fault; 0: none
	enforced  int   // from now on
	announced int   // last
	known     int   // acknowledged last; 0: none
	underway  []int // announced and not yet acknowledged
}

// fcmStreams is Google's limit, which its clients rely on.
const fcmStreams = 100

// greet opens the conversation with our SETTINGS: Apple's as captured in 2021, Google's with its 100 streams.
func (c *conn) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, cfg := &c.limit, c.ep.mock.cfg.Streams
	fields := uint32(64 << 10)
	l.usual, l.enforced, l.announced = fcmStreams, fcmStreams, fcmStreams
	if c.ep.apple() {
		fields = 8000
		l.usual, l.enforced, l.announced = cfg.Max, cfg.Start, cfg.Start
		if cfg.Unadvertised {
			l.announced = cfg.Max
		}
		if c.peer.cert != nil {
			l.enforced, l.announced = cfg.Max, cfg.Max
		}
	}
	if l.forced > 0 {
		l.enforced, l.announced = l.forced, l.forced
	}
	l.underway = []int{l.announced}
	_ = c.frames.WriteSettings(
		http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4096},
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(l.announced)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamCredit},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: fields})
	_ = c.frames.WriteWindowUpdate(0, connCredit-65535)
}

// announce changes the limit. Every SETTINGS frame of ours carries one, so that acknowledgements can be matched. mu is
// held.
func (c *conn) announce(n int) {
	c.limit.enforced = n
	if c.limit.announced == n {
		return
	}
	c.limit.announced = n
	c.limit.underway = append(c.limit.underway, n)
	_ = c.frames.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(n)})
}

func (l *limit) acknowledged() {
	if len(l.underway) > 0 {
		l.known, l.underway = l.underway[0], l.underway[1:]
	}
}

// violated says whether the client must have known that a stream beside so many open ones is one too many: neither the
// limit that it acknowledged last nor one that it may have read since allows it.
func (l *limit) violated(open int) bool {
	if l.known == 0 {
		return false
	}
	return open >= l.known && !slices.ContainsFunc(l.underway, func(n int) bool { return open < n })
}

// adapt lets an APNs connection's limit follow an answer. mu is held.
func (c *conn) adapt(a *answer) {
	if !c.ep.apple() || c.limit.forced > 0 {
		return
	}
	if a.accepted {
		c.announce(c.limit.usual)
	} else if c.ep.mock.cfg.Streams.ShrinkOn4xx && a.status >= 400 && a.status < 500 && a.status != 410 {
		c.announce(1)
	}
}

// obey applies the script to the connection: what lasts, and what the fresh rules do once.
func (c *conn) obey(p *program, fresh []*rule) {
	number := c.peer.number
	c.freeze(p.connection(c.ep, number, (*rule).freezes) != nil)
	forced := 0
	if f := p.connection(c.ep, number, (*rule).limits); f != nil {
		forced = f.MaxStreams
	}
	c.force(forced)
	for _, f := range fresh {
		if !f.concerns(c.ep) || !f.part(number) {
			continue
		}
		if f.goesAway() && f.take() {
			c.goAway(f.GoAway)
		}
		if f.resets() && f.take() {
			c.reset(f.Reset.Processed)
		}
	}
}

// freeze stops reading and writing, or starts them again.
func (c *conn) freeze(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if yes && c.frozen == nil {
		c.frozen = make(chan struct{})
	}
	if !yes && c.frozen != nil {
		close(c.frozen)
		c.frozen = nil
	}
}

// force sets the limit that a fault asks for; 0 ends that.
func (c *conn) force(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == c.limit.forced {
		return
	}
	c.limit.forced = n
	if c.limit.announced == 0 {
		return // greet will see to it
	}
	c.announce(or(n, c.limit.usual))
	c.poke()
}

// goAway leaves as a fault says.
func (c *conn) goAway(g *GoAway) {
	code, _ := errCode("", g.Code)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit.announced == 0 {
		return // it has not begun
	}
	last := int(c.last) + 2*g.LastOffset
	c.leave(uint32(max(last, 0)), code, g.Debug)
	c.poke()
}

// leave sends GOAWAY: streams above last are not processed, the others still get their answers. No answered stream is
// ever disowned. mu is held.
func (c *conn) leave(last uint32, code http2.ErrCode, debug string) {
	c.cut = min(c.cut, max(last, c.done))
	_ = c.frames.WriteGoAway(c.cut, code, []byte(debug))
	c.leaving = true
	for id, st := range c.streams {
		if id > c.cut {
			c.settleUnprocessed(st, "goaway")
			c.forget(st)
		}
	}
	c.poke()
}

// reset ends the connection by a TCP reset. Of the requests in flight the oldest were processed, the others were not.
func (c *conn) reset(processed float64) {
	c.mu.Lock()
	ids := slices.Sorted(maps.Keys(c.streams))
	known := int(processed * float64(len(ids)))
	for i, id := range ids {
		if st := c.streams[id]; i < known {
			c.settle(st, "reset")
		} else {
			c.settleUnprocessed(st, "reset")
		}
	}
	clear(c.streams)
	c.mu.Unlock()
	_ = c.raw.SetLinger(0)
	c.shut()
}
