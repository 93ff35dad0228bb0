// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// defaultTTL is the TTL of notifications without one; RFC 8030 requires the header. Push services
// store a message for at most four weeks, which is the default of other libraries too.
const defaultTTL = 4 * 7 * 24 * time.Hour

// header returns the request's header: the sender's values, or else those of the common fields.
func header(n *push.Notification, endpoint *url.URL) ([]wire.Field, error) {
	given, err := parseSenderHeaders(n)
	if err != nil {
		return nil, err
	}
	if len(given["topic"])%4 == 1 && isApple(endpoint) {
		return nil, invalid("webpush.headers.Topic", invalidHeader, "of another length for Apple, which decodes it as base64: not 1, 5, 9 and so on")
	}
	ttl := cmp.Or(given["ttl"], ttlFor(n))
	h := append(make([]wire.Field, 0, 7),
		wire.Field{Name: "content-encoding", Value: "aes128gcm"},
		wire.Field{Name: "content-type", Value: "application/octet-stream"},
		wire.Field{Name: "ttl", Value: ttl, NeverIndexed: true})
	if ttl == "0" && isWNS(endpoint) && given["x-wns-cache-policy"] == "" {
		h = append(h, wire.Field{Name: "x-wns-cache-policy", Value: "no-cache"})
	}
	if urgency := cmp.Or(given["urgency"], string(n.Priority)); urgency != "" {
		h = append(h, wire.Field{Name: "urgency", Value: urgency})
	}
	if topic := cmp.Or(given["topic"], topicFor(n.CollapseKey)); topic != "" {
		h = append(h, wire.Field{Name: "topic", Value: topic, NeverIndexed: true})
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if name != "ttl" && name != "urgency" && name != "topic" {
			h = append(h, wire.Field{Name: name, Value: given[name], NeverIndexed: true})
		}
	}
	return h, nil
}

// senderHeaders are the known headers that a sender can set (RFC 8030, section 5, and WNS), their
// syntax, and its description.
var senderHeaders = map[string]struct {
	name    string
	fits    func(string) bool
	allowed string
}{
	"ttl": {"TTL", isTTL, "seconds in digits, 0 to 2147483647"},
	"urgency": {"Urgency", func(s string) bool {
		return slices.Contains([]string{"very-low", "low", "normal", "high"}, s)
	}, "one of very-low, low, normal, high"},
	"topic": {"Topic", isTopic, "1 to 32 letters, digits, hyphens and underscores"},
	"x-wns-cache-policy": {"X-WNS-Cache-Policy", func(s string) bool {
		return s == "cache" || s == "no-cache"
	}, "cache or no-cache"},
}

const knownHeaders = "one of TTL, Urgency, Topic and X-WNS-Cache-Policy"

// ownHeaders are the headers that describe the request's body, its sender or its connection.
var ownHeaders = []string{
	"authorization", "content-encoding", "content-length", "content-type", "crypto-key", "encryption", "encryption-key", "host",
	"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
}

// parseSenderHeaders returns the headers that the sender set, by their lower-case names.
func parseSenderHeaders(n *push.Notification) (map[string]string, error) {
	if n.WebPush == nil || len(n.WebPush.Headers) == 0 {
		return nil, nil
	}
	given := map[string]string{}
	for _, written := range slices.Sorted(maps.Keys(n.WebPush.Headers)) {
		name, value := strings.ToLower(written), n.WebPush.Headers[written]
		g, known := senderHeaders[name]
		field := headerPath(cmp.Or(g.name, name))
		_, twice := given[name]
		switch {
		case !known && (!isHeaderName(name) || slices.Contains(ownHeaders, name)):
			return nil, invalid("webpush.headers", invalidHeader, knownHeaders)
		case twice:
			return nil, invalid(field, invalidHeader, "set once; the name is case-insensitive")
		case known && !g.fits(value):
			return nil, invalid(field, invalidHeader, g.allowed)
		case !known && !isHeaderValue(value):
			return nil, invalid(field, invalidHeader, "1 to 1024 printable ASCII characters, with no space at either end")
		}
		given[name] = value
		if !known {
			if err := n.Warn(field, knownHeaders); err != nil {
				return nil, err
			}
		}
	}
	return given, nil
}

// headerPath returns the field path of a header. It includes the name only if it consists of letters
// and hyphens: anything else may be a misplaced secret.
func headerPath(name string) string {
	if len(name) <= 40 && allBytes(name, func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' || c == '-' }) {
		return "webpush.headers." + name
	}
	return "webpush.headers"
}

// isHeaderName reports whether s can be a header's name: lower-case letters, digits and hyphens.
func isHeaderName(s string) bool {
	return len(s) >= 1 && len(s) <= 40 && 'a' <= s[0] && s[0] <= 'z' && allBytes(s, func(c byte) bool {
		return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	})
}

func isHeaderValue(s string) bool {
	return s != "" && len(s) <= 1024 && allBytes(s, func(c byte) bool { return ' ' <= c && c <= '~' }) && strings.TrimSpace(s) == s
}

func isTTL(s string) bool {
	seconds, err := strconv.ParseUint(s, 10, 31)
	return err == nil && strconv.FormatUint(seconds, 10) == s
}

func isTopic(s string) bool {
	return len(s) >= 1 && len(s) <= 32 && allBytes(s, func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
	})
}

// topicFor returns the Topic for a collapse key. Push services only compare topics, so a key that
// is not a valid Topic is replaced by a hash of 24 bytes. Apple also decodes topics as base64, which
// never has a length of 4n+1 (observed 2026-08), so such keys are replaced too.
func topicFor(key string) string {
	if key == "" || isTopic(key) && len(key)%4 != 1 {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// ttlFor returns the remaining TTL in seconds, rounded up. Push services count from when they
// receive the message.
func ttlFor(n *push.Notification) string {
	left := defaultTTL
	if end, bounded := n.Expiry(); bounded && *n.TTL == 0 {
		left = 0
	} else if bounded {
		left = max(time.Until(end), 0)
	}
	return strconv.FormatInt(min(int64((left+time.Second-1)/time.Second), 1<<31-1), 10)
}
