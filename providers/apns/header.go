// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// pushType is a value of apns-push-type and the rules that APNs has for it.
type pushType struct {
	name, suffix string
	limit        int    // maximum payload size in bytes
	priorities   string // the allowed values of apns-priority, highest first
	key, cert    bool   // the kinds of credential that can send it
}

// pushTypes are all push types. Apple, "Sending notification requests to APNs", read 2026-11-22.
var pushTypes = [...]pushType{
	{"alert", "", 4096, "10 5 1", true, true},
	{"background", "", 4096, "5", true, true}, // APNs refuses priority 10
	{"location", ".location-query", 4096, "10 5 1", true, false},
	{"voip", ".voip", 5120, "10 5 1", true, true},
	{"complication", ".complication", 4096, "10 5 1", true, true},
	{"fileprovider", ".pushkit.fileprovider", 4096, "10 5 1", true, true},
	{"mdm", "", 4096, "10 5 1", false, true}, // its topic is the UID in the subject of the MDM certificate
	{"liveactivity", ".push-type.liveactivity", 4096, "10 5", true, true},
	{"pushtotalk", ".voip-ptt", 4096, "10 5 1", true, true},
	{"widgets", ".push-type.widgets", 4096, "10 5 1", true, true},
	{"controls", ".push-type.controls", 4096, "10 5 1", true, true},
}

// pushTypeByName returns the push type with that name, or nil.
func pushTypeByName(name string) *pushType {
	for i := range pushTypes {
		if pushTypes[i].name == name {
			return &pushTypes[i]
		}
	}
	return nil
}

// pushTypeOfTopic returns the push type whose suffix ends the topic, or nil.
func pushTypeOfTopic(topic string) *pushType {
	for i := range pushTypes {
		if suffix := pushTypes[i].suffix; suffix != "" && strings.HasSuffix(topic, suffix) {
			return &pushTypes[i]
		}
	}
	return nil
}

// TopicSuffix returns the suffix of a push type in which a topic ends, and the push type. Both are
// empty if there is none.
func TopicSuffix(topic string) (suffix, pushType string) {
	if kind := pushTypeOfTopic(topic); kind != nil {
		return kind.suffix, kind.name
	}
	return "", ""
}

// allows reports whether the push type allows that apns-priority.
func (k *pushType) allows(priority string) bool {
	return slices.Contains(strings.Fields(k.priorities), priority)
}

// priority returns the apns-priority for p, or the nearest value that the push type allows. ""
// means APNs' default, which is 10.
func (k *pushType) priority(p push.Priority) string {
	if k.name == "background" {
		return "5"
	}
	switch p {
	case push.PriorityHigh:
		return "10"
	case push.PriorityNormal:
		return "5"
	case push.PriorityLow:
		if k.allows("1") {
			return "1"
		}
		return "5"
	}
	return ""
}

const pushTypeField = "apns.headers.apns-push-type"

// pushType returns the push type that n sets, or else the one that its topic or its content
// implies.
func (p *Provider) pushType(n *push.Notification, c content) (*pushType, error) {
	kind, err := p.findPushType(n, c)
	switch {
	case err != nil:
		return nil, err
	case p.signer != nil && !kind.key:
		return nil, invalid(pushTypeField, invalidHeader, "a push type other than "+kind.name+", which requires a certificate: this app has a key")
	case p.signer == nil && !kind.cert:
		return nil, invalid(pushTypeField, invalidHeader, "a push type other than "+kind.name+", which requires a key: this app has a certificate")
	case kind.name == "background" && c.visible:
		return nil, invalid(pushTypeField, invalidHeader, "a push type other than background, which allows no alert, badge or sound")
	}
	return kind, nil
}

func (p *Provider) findPushType(n *push.Notification, c content) (*pushType, error) {
	if name := senderHeader(n, "apns-push-type"); name != "" {
		if kind := pushTypeByName(name); kind != nil {
			return kind, nil
		}
		return newPushType(n, name)
	}
	if kind := pushTypeOfTopic(cmp.Or(senderHeader(n, "apns-topic"), p.topic)); kind != nil {
		return kind, nil
	}
	return derivePushType(n, c)
}

// newPushType returns a push type that this package does not know, with a warning. APNs checks its
// rules.
func newPushType(n *push.Notification, name string) (*pushType, error) {
	allowed := "one of " + pushTypeNames()
	if !isName(name) {
		return nil, invalid(pushTypeField, invalidHeader, allowed)
	}
	return &pushType{name, "", 5120, "10 5 1", true, true}, n.Warn(pushTypeField, allowed)
}

// isName reports whether s can be the name of a header, or a value of an enumeration: lower-case
// letters, digits and hyphens.
func isName(s string) bool {
	return len(s) >= 2 && len(s) <= 40 && 'a' <= s[0] && s[0] <= 'z' && allBytes(s, func(c byte) bool {
		return 'a' <= c && c <= 'z' || isDigit(c) || c == '-'
	})
}

// derivePushType returns the push type for n's content.
func derivePushType(n *push.Notification, c content) (*pushType, error) {
	switch {
	case c.liveActivity:
		return pushTypeByName("liveactivity"), nil
	case c.silent:
		return pushTypeByName("background"), nil
	case !c.visible && (n.APNs == nil || len(n.APNs.Payload) == 0):
		return nil, invalid("body", payloadEmpty, "set, or another visible field, data or apns.payload: the notification is empty")
	}
	return pushTypeByName("alert"), nil
}

func pushTypeNames() string {
	var names []string
	for i := range pushTypes {
		names = append(names, pushTypes[i].name)
	}
	return strings.Join(names, ", ")
}

// senderHeader returns the value of a header that the sender set, or "".
func senderHeader(n *push.Notification, name string) string { return n.APNs.Header(name) }

// optionalFields are the header fields that a notification may or may not have.
var optionalFields = [...]struct {
	name string
	once bool
	read func(*push.Notification, *pushType) (string, error)
}{
	{"apns-priority", false, priorityFor},
	{"apns-expiration", true, expirationFor},
	{"apns-collapse-id", true, collapseFor},
}

// header returns the request's header: the sender's values, or else those of the common fields.
// Values that differ in each notification are sent without indexing: APNs' HPACK table is small
// ("Communicating with APNs").
func (p *Provider) header(n *push.Notification, kind *pushType) ([]wire.Field, error) {
	if err := checkHeaderNames(n); err != nil {
		return nil, err
	}
	topic, err := p.topicFor(n, kind)
	if err != nil {
		return nil, err
	}
	h := append(make([]wire.Field, 0, 8), // up to 3 fixed and 4 optional ones, and the credential
		wire.Field{Name: "apns-id", Value: n.ID, NeverIndexed: true},
		wire.Field{Name: "apns-push-type", Value: kind.name},
		wire.Field{Name: "content-type", Value: "application/json"})
	if topic != "" {
		h = append(h, wire.Field{Name: "apns-topic", Value: topic})
	}
	for _, part := range optionalFields {
		value, err := part.read(n, kind)
		if err != nil {
			return nil, err
		}
		if value != "" {
			h = append(h, wire.Field{Name: part.name, Value: value, NeverIndexed: part.once})
		}
	}
	return append(h, newHeaders(n)...), nil
}

// allowedHeaders are the headers that a sender can set. Others that start with apns- are sent with a
// warning, except those that the gateway sets.
var (
	allowedHeaders = []string{"apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id"}
	gatewayHeaders = []string{"apns-id", "apns-request-id", "apns-channel-id"}
)

// checkHeaderNames returns an error if the sender set a header that cannot be sent, or one twice.
func checkHeaderNames(n *push.Notification) error {
	if n.APNs == nil || len(n.APNs.Headers) == 0 {
		return nil
	}
	seen := map[string]bool{}
	for _, given := range slices.Sorted(maps.Keys(n.APNs.Headers)) {
		name := strings.ToLower(given)
		known := slices.Contains(allowedHeaders, name)
		switch value := n.APNs.Headers[given]; {
		case !known && (!strings.HasPrefix(name, "apns-") || !isName(name) || slices.Contains(gatewayHeaders, name)):
			return invalid(headerPath(name), invalidHeader, oneOfHeaders)
		case value == "":
			return invalid(headerPath(name), invalidHeader, "absent or non-empty")
		case !known && !isHeaderValue(value):
			return invalid(headerPath(name), invalidHeader, "at most 1024 printable ASCII characters, with no space at either end")
		case seen[name]:
			return invalid(headerPath(name), invalidHeader, "set once; the name is case-insensitive")
		}
		seen[name] = true
		if !known {
			if err := n.Warn(headerPath(name), oneOfHeaders); err != nil {
				return err
			}
		}
	}
	return nil
}

var oneOfHeaders = "one of " + strings.Join(allowedHeaders, ", ")

// headerPath returns the field path of a header.
func headerPath(name string) string { return memberPath("apns.headers", name) }

// memberPath returns the path of a member of an object. It includes the name only if it looks like
// one, with letters, hyphens and underscores: anything else may be a misplaced secret.
func memberPath(object, name string) string {
	if name != "" && len(name) <= 40 && allBytes(name, func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' || c == '-' || c == '_' }) {
		return object + "." + name
	}
	return object
}

func isHeaderValue(s string) bool {
	return len(s) <= 1024 && allBytes(s, func(c byte) bool { return ' ' <= c && c <= '~' }) && strings.TrimSpace(s) == s
}

// newHeaders returns the headers of the sender that this package does not know.
func newHeaders(n *push.Notification) (h []wire.Field) {
	if n.APNs == nil {
		return nil
	}
	for _, given := range slices.Sorted(maps.Keys(n.APNs.Headers)) {
		if name := strings.ToLower(given); !slices.Contains(allowedHeaders, name) {
			h = append(h, wire.Field{Name: name, Value: n.APNs.Headers[given], NeverIndexed: true})
		}
	}
	return h
}

const topicFormat = "1 to 255 letters, digits, dots, hyphens and underscores"

func isTopic(s string) bool {
	return len(s) >= 1 && len(s) <= 255 && allBytes(s, func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_'
	})
}

// topicFor returns the topic with the push type's suffix. A sender can set the topic of a part of
// its app, such as a watch app or an app clip: its bundle ID begins with the app's. It cannot set
// the topic of another app that shares the key.
func (p *Provider) topicFor(n *push.Notification, kind *pushType) (string, error) {
	const field = "apns.headers.apns-topic"
	named := senderHeader(n, "apns-topic")
	if named == "" || named == p.topic {
		return p.ownTopic(kind)
	}
	other := pushTypeOfTopic(named)
	switch {
	case !isTopic(named):
		return "", invalid(field, invalidHeader, "a bundle ID: "+topicFormat)
	case p.topic != "" && !strings.HasPrefix(named, p.topic+"."):
		return "", invalid(field, invalidHeader, "the app's topic, or that topic followed by a dot and a suffix")
	case other == kind:
		return named, nil
	case other != nil:
		return "", invalid(field, invalidHeader, "without the suffix "+other.suffix+" for push type "+kind.name)
	}
	return named + kind.suffix, nil
}

// ownTopic returns the configured topic with the push type's suffix. A configured topic that ends
// in a suffix is for that push type. Push types without a suffix are allowed too, because the
// bundle ID of an app can end in .voip.
func (p *Provider) ownTopic(kind *pushType) (string, error) {
	switch other := pushTypeOfTopic(p.topic); {
	case p.topic == "", other == kind, other != nil && kind.suffix == "":
		return p.topic, nil
	case other != nil:
		return "", invalid(pushTypeField, invalidHeader, other.name+", because the topic of this app ends in "+other.suffix)
	}
	return p.topic + kind.suffix, nil
}

func priorityFor(n *push.Notification, kind *pushType) (string, error) {
	named := senderHeader(n, "apns-priority")
	switch {
	case named == "":
		return kind.priority(n.Priority), nil
	case !kind.allows(named):
		return "", invalid("apns.headers.apns-priority", invalidHeader,
			"one of "+strings.ReplaceAll(kind.priorities, " ", ", ")+" for push type "+kind.name)
	}
	return named, nil
}

// expirationFor returns the time at which n's TTL ends. It rounds up: APNs tries only once to
// deliver a notification whose expiration has passed.
func expirationFor(n *push.Notification, _ *pushType) (string, error) {
	if named := senderHeader(n, "apns-expiration"); named != "" {
		if len(named) > 11 || !allBytes(named, isDigit) {
			return "", invalid("apns.headers.apns-expiration", invalidHeader, "digits: "+secondsSince1970+", or 0")
		}
		return named, nil
	}
	end, bounded := n.Expiry()
	switch {
	case !bounded:
		return "", nil
	case *n.TTL == 0:
		return "0", nil
	}
	return strconv.FormatInt(end.Add(time.Second-1).Unix(), 10), nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// collapseFor returns the collapse ID. APNs limits it in bytes, and a header value must be ASCII.
func collapseFor(n *push.Notification, _ *pushType) (string, error) {
	const allowed = "at most 64 printable ASCII characters, with no space at either end, for APNs"
	if named := senderHeader(n, "apns-collapse-id"); named != "" {
		if !isCollapseID(named) {
			return "", invalid("apns.headers.apns-collapse-id", invalidHeader, allowed)
		}
		return named, nil
	}
	if !isCollapseID(n.CollapseKey) {
		return "", invalid("collapse_key", invalidField, allowed)
	}
	return n.CollapseKey, nil
}

func isCollapseID(s string) bool {
	return len(s) <= 64 && allBytes(s, func(c byte) bool { return ' ' <= c && c <= '~' }) && strings.TrimSpace(s) == s
}
