// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// apns plays Apple's service as "Sending notification requests to APNs" and "Handling notification responses from
// APNs" describe it (read 2026-11). The order of its checks is not documented: method, path, credential, header
// fields, device token, topic, payload.
//
// Every well-formed device token is registered, but for those that begin with the digits of apnsTokens.
type apns struct {
	credentials []Credential
	updates     *tokenUpdates
	channels    *channels
	clock       func(service string) time.Time
	started     time.Time
}

var _ service = (*apns)(nil)

// apnsTokens says which tokens are not what they seem: the first eight digits decide, so that a random token is safe.
var apnsTokens = map[string]refusal{
	"dead0000": {410, "Unregistered"},
	"deaddead": {410, "Unregistered"},
	"dead0001": {410, "ExpiredToken"},
	"deadbeef": {400, "BadDeviceToken"},
	"bad00000": {400, "BadDeviceToken"},
	"bad00001": {400, "DeviceTokenNotForTopic"},
	"fa110429": {429, "TooManyRequests"},
	"fa110500": {500, "InternalServerError"},
	"fa110503": {503, "ServiceUnavailable"},
}

// oneEnvironment are the tokens that only the sandbox knows, or only production.
var oneEnvironment = map[string]string{"5a2db0c0": Sandbox, "5a2db0c1": Production}

// refusal is a status with Apple's reason; the zero value is no refusal.
type refusal struct {
	status int
	reason string
}

const devicePath = "/3/device/"

func (a *apns) find(r *request) {
	r.token, _ = strings.CutPrefix(r.path, devicePath)
	if len(r.token) == len(r.path) {
		r.token = ""
	}
	if strings.HasPrefix(r.path, broadcastPath) {
		r.token, r.toMany = r.get("apns-channel-id"), true
	}
}

func (a *apns) judge(p *peer, r *request) answer {
	a.find(r)
	if strings.HasPrefix(r.path, broadcastPath) {
		return a.broadcast(p, r)
	}
	refused := a.refuse(p, r)
	if refused.status == 0 {
		return a.accept(r)
	}
	return a.reply(r, refused, 0)
}

func (a *apns) scripted(r *request, f *Fault) answer {
	if strings.HasPrefix(r.path, broadcastPath) {
		return (&apnsManage{a}).scripted(r, f)
	}
	if f.Status == 200 {
		return a.accept(r)
	}
	reason := or(f.Reason, apnsReasons[f.Status])
	reply := a.reply(r, refusal{f.Status, reason}, f.Timestamp)
	reply.retryAfter(f.RetryAfter)
	return reply
}

// apnsReasons are what a status most often comes with.
var apnsReasons = map[int]string{
	400: "BadDeviceToken", 403: "InvalidProviderToken", 404: "BadPath", 405: "MethodNotAllowed", 410: "Unregistered",
	413: "PayloadTooLarge", 429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}

// accept answers 200, with apns-unique-id where the client speaks to the sandbox.
func (a *apns) accept(r *request) answer {
	reply := answer{status: 200, accepted: true}
	reply.header = append(reply.header, passing("apns-id", a.id(r)))
	if r.sandbox() {
		reply.header = append(reply.header, passing("apns-unique-id", uuid.NewString()))
	}
	return reply
}

// reply answers with a reason; a 410 also says since when, in milliseconds.
func (a *apns) reply(r *request, refused refusal, timestamp int64) answer {
	reply := answer{status: refused.status, reason: refused.reason}
	reply.header = append(reply.header, passing("apns-id", a.id(r)), field("content-type", "application/json"))
	if refused.reason == "" {
		return reply
	}
	reason, _ := json.Marshal(refused.reason)
	if refused.status == 410 {
		since := or(timestamp, a.started.Add(-24*time.Hour).UnixMilli())
		reply.body = fmt.Appendf(nil, `{"reason":%s,"timestamp":%d}`, reason, since)
		return reply
	}
	reply.body = fmt.Appendf(nil, `{"reason":%s}`, reason)
	return reply
}

// id echoes the caller's apns-id, or makes one in upper case, as Apple does.
func (a *apns) id(r *request) string {
	if r.id == "" {
		r.id = r.get("apns-id")
	}
	if !isUUID(r.id) {
		r.id = strings.ToUpper(uuid.NewString())
	}
	return r.id
}

// refuse finds the first fault of r.
func (a *apns) refuse(p *peer, r *request) refusal {
	if r.method != "POST" {
		return refusal{405, "MethodNotAllowed"}
	}
	if !strings.HasPrefix(r.path, devicePath) || strings.ContainsAny(r.token, "/?#") {
		return refusal{404, "BadPath"}
	}
	if refused := a.authenticate(p, r); refused.status != 0 {
		return refused
	}
	if reason := badHeader(r); reason != "" {
		return refusal{400, reason}
	}
	if refused := badToken(r); refused.status != 0 {
		return refused
	}
	if reason := badTopic(p, r); reason != "" {
		return refusal{400, reason}
	}
	return badPayload(r)
}

// badToken checks the grammar, an even number of hex digits for 1 to 100 bytes, and the registry. Apple says that the
// size of a token may change.
func badToken(r *request) refusal {
	token := r.token
	if token == "" {
		return refusal{400, "MissingDeviceToken"}
	}
	if len(token)%2 != 0 || len(token) > 200 || !isHex(token) {
		return refusal{400, "BadDeviceToken"}
	}
	if len(token) < 8 {
		return refusal{}
	}
	begin := strings.ToLower(token[:8])
	if in := oneEnvironment[begin]; in != "" && (in == Sandbox) != r.sandbox() {
		return refusal{400, "BadDeviceToken"}
	}
	return apnsTokens[begin]
}

// badPayload wants a JSON object of a size that the push type allows.
func badPayload(r *request) refusal {
	if len(r.body) == 0 {
		return refusal{400, "PayloadEmpty"}
	}
	if len(r.body) > maxPayload(r.get("apns-push-type")) || r.tooLong {
		return refusal{413, "PayloadTooLarge"}
	}
	trimmed := strings.TrimLeft(string(r.body[:1]), " \t\r\n")
	if (trimmed != "" && trimmed != "{") || !json.Valid(r.body) {
		return refusal{400, "PayloadEmpty"}
	}
	return refusal{}
}

// maxPayload is 5 KiB for VoIP and 4 KiB for all else.
func maxPayload(pushType string) int {
	if pushType == "voip" {
		return 5120
	}
	return 4096
}

// badTopic checks the topic against the credential's and the push type's suffix.
func badTopic(p *peer, r *request) (reason string) {
	topic, byCert := r.get("apns-topic"), p.cert != nil
	if topic == "" && byCert {
		topic = topicOf(p.cert)
	}
	if topic == "" {
		return "MissingTopic"
	}
	if !isTopic(topic) {
		return "BadTopic"
	}
	base, suffix := splitTopic(topic)
	kind := r.get("apns-push-type")
	if want, known := topicSuffix[kind]; known && want != suffix {
		return "BadTopic"
	}
	if byCert && base != topicOf(p.cert) || !byCert && !slices.Contains(p.bound.Topics, base) {
		return "TopicDisallowed"
	}
	return ""
}
