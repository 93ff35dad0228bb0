// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// defaultTTL is for notifications without one: RFC 8030 wants the header always. Four weeks are what the services keep a
// message for at most, and what other libraries ask for.
const defaultTTL = 4 * 7 * 24 * time.Hour

// header writes the request's header: what the sender gave, else what the common fields make.
func header(n *push.Notification) ([]wire.Field, error) {
	given, err := parseSenderHeaders(n)
	if err != nil {
		return nil, err
	}
	h := append(make([]wire.Field, 0, 6),
		wire.Field{Name: "content-encoding", Value: "aes128gcm"},
		wire.Field{Name: "content-type", Value: "application/octet-stream"},
		wire.Field{Name: "ttl", Value: firstNonEmpty(given["ttl"], ttlFor(n)), NeverIndexed: true})
	if urgency := firstNonEmpty(given["urgency"], string(n.Priority)); urgency != "" {
		h = append(h, wire.Field{Name: "urgency", Value: urgency})
	}
	if topic := firstNonEmpty(given["topic"], topicFor(n.CollapseKey)); topic != "" {
		h = append(h, wire.Field{Name: "topic", Value: topic, NeverIndexed: true})
	}
	return h, nil
}

func firstNonEmpty(given, common string) string {
	if given != "" {
		return given
	}
	return common
}

// senderHeaders are the headers that a sender may give (RFC 8030, section 5): what each may be, and how to say so.
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
}

// parseSenderHeaders returns the sender's own headers by their names in lower case.
func parseSenderHeaders(n *push.Notification) (map[string]string, error) {
	if n.WebPush == nil || len(n.WebPush.Headers) == 0 {
		return nil, nil
	}
	given := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(n.WebPush.Headers)) {
		g, known := senderHeaders[strings.ToLower(name)]
		_, twice := given[strings.ToLower(name)]
		switch value := n.WebPush.Headers[name]; {
		case !known:
			return nil, invalid("webpush.headers", invalidHeader, "made of TTL, Urgency and Topic, and no other")
		case twice:
			return nil, invalid("webpush.headers."+g.name, invalidHeader, "given once, in whatever case")
		case !g.fits(value):
			return nil, invalid("webpush.headers."+g.name, invalidHeader, g.allowed)
		default:
			given[strings.ToLower(name)] = value
		}
	}
	return given, nil
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

// topicFor returns a collapse key as a Topic. Services only compare it, so one that is too long or has other characters
// does as well as its hash: 24 bytes of SHA-256.
func topicFor(key string) string {
	if key == "" || isTopic(key) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// ttlFor returns the seconds that are left, rounded up: services count from when they get the message.
func ttlFor(n *push.Notification) string {
	left := defaultTTL
	if end, bounded := n.Expiry(); bounded && *n.TTL == 0 {
		left = 0
	} else if bounded {
		left = max(time.Until(end), 0)
	}
	return strconv.FormatInt(min(int64((left+time.Second-1)/time.Second), 1<<31-1), 10)
}
