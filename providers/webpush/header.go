// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"cmp"
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

// defaultTTL is the TTL of notifications without one; RFC 8030 requires the header. Push services
// store a message for at most four weeks, which is the default of other libraries too.
const defaultTTL = 4 * 7 * 24 * time.Hour

// header returns the request's header: the sender's values, or else those of the common fields.
func header(n *push.Notification) ([]wire.Field, error) {
	given, err := parseSenderHeaders(n)
	if err != nil {
		return nil, err
	}
	h := append(make([]wire.Field, 0, 6),
		wire.Field{Name: "content-encoding", Value: "aes128gcm"},
		wire.Field{Name: "content-type", Value: "application/octet-stream"},
		wire.Field{Name: "ttl", Value: cmp.Or(given["ttl"], ttlFor(n)), NeverIndexed: true})
	if urgency := cmp.Or(given["urgency"], string(n.Priority)); urgency != "" {
		h = append(h, wire.Field{Name: "urgency", Value: urgency})
	}
	if topic := cmp.Or(given["topic"], topicFor(n.CollapseKey)); topic != "" {
		h = append(h, wire.Field{Name: "topic", Value: topic, NeverIndexed: true})
	}
	return h, nil
}

// senderHeaders are the headers that a sender can set (RFC 8030, section 5), their syntax, and its
// description.
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

// parseSenderHeaders returns the headers that the sender set, by their lower-case names.
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
			return nil, invalid("webpush.headers", invalidHeader, "limited to TTL, Urgency and Topic")
		case twice:
			return nil, invalid("webpush.headers."+g.name, invalidHeader, "set once; the name is case-insensitive")
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

// topicFor returns the Topic for a collapse key. Push services only compare topics, so a key that
// is not a valid Topic is replaced by a hash of 24 bytes.
func topicFor(key string) string {
	if key == "" || isTopic(key) {
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
