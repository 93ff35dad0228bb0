// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

const broadcastPath = "/4/broadcasts/apps/"

// maxBroadcast is the longest payload of a broadcast, in bytes.
const maxBroadcast = 5120

// broadcastReasons are what a status of the channel and broadcast API most often comes with.
var broadcastReasons = map[int]string{
	400: "ChannelNotRegistered", 403: "InvalidProviderToken", 404: "BadPath", 405: "MethodNotAllowed", 413: "PayloadTooLarge",
	429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}

// broadcast answers a send to a channel as "Sending broadcast push notification requests to APNs" describes it (read
// 2026-11). The order of its checks is not documented.
func (a *apns) broadcast(p *peer, r *request) answer {
	refused := a.refuseBroadcast(p, r)
	if refused.status == 0 {
		refused.status = 200
	}
	return a.broadcastReply(r, refused)
}

// refuseBroadcast finds the first fault of r.
func (a *apns) refuseBroadcast(p *peer, r *request) refusal {
	bundle := strings.TrimPrefix(r.path, broadcastPath)
	if r.method != "POST" {
		return refusal{405, "MethodNotAllowed"}
	}
	if bundle == "" || strings.ContainsAny(bundle, "/?#") {
		return refusal{404, "BadPath"}
	}
	if refused := a.authenticate(p, r); refused.status != 0 {
		return refused
	}
	if refused := a.badApp(p, r, bundle); refused.status != 0 {
		return refused
	}
	policy, refused := a.channel(r, realm{bundle, r.sandbox()})
	if refused.status != 0 {
		return refused
	}
	if reason := badBroadcastHeader(r, policy); reason != "" {
		return refusal{400, reason}
	}
	return badBroadcast(r)
}

// badApp checks apns-request-id, and the bundle in the path against the credential: it has no suffix.
func (a *apns) badApp(p *peer, r *request, bundle string) refusal {
	if r.has("apns-request-id") && !isUUID(r.get("apns-request-id")) {
		return refusal{400, "BadMessageId"}
	}
	if p.cert != nil && topicOf(p.cert) != bundle {
		return refusal{403, "TopicMismatch"}
	}
	if p.cert == nil && !slices.Contains(p.bound.Topics, bundle) {
		return refusal{400, "TopicDisallowed"}
	}
	return refusal{}
}

// channel finds the channel that a request names, and its storage policy.
func (a *apns) channel(r *request, in realm) (policy int, refused refusal) {
	if r.token == "" {
		return 0, refusal{400, "MissingChannelId"}
	}
	if _, err := base64.StdEncoding.DecodeString(r.token); err != nil {
		return 0, refusal{400, "BadChannelId"}
	}
	policy, ok := a.channels.lookUp(in, r.token)
	if !ok {
		return 0, refusal{400, "ChannelNotRegistered"}
	}
	return policy, refusal{}
}

// badBroadcastHeader knows that a channel that stores nothing takes no expiration but 0.
func badBroadcastHeader(r *request, policy int) (reason string) {
	kind, expiration := r.get("apns-push-type"), or(r.get("apns-expiration"), "0")
	switch {
	case kind == "":
		return "MissingPushType"
	case kind != "liveactivity":
		return "InvalidPushType"
	case !isNumber(expiration), policy == 0 && expiration != "0":
		return "BadExpirationDate"
	case r.has("apns-priority") && !allowedPriority(kind, r.get("apns-priority")):
		return "BadPriority"
	}
	return ""
}

// badBroadcast wants a JSON object that does not start an activity, for a broadcast cannot. That the reason is then
// BadRequestPayload is a guess.
func badBroadcast(r *request) refusal {
	if len(r.body) == 0 {
		return refusal{400, "PayloadEmpty"}
	}
	if len(r.body) > maxBroadcast || r.tooLong {
		return refusal{413, "PayloadTooLarge"}
	}
	var payload struct{ APS struct{ Event string } }
	if json.Unmarshal(r.body, &payload) != nil || payload.APS.Event == "start" {
		return refusal{400, "BadRequestPayload"}
	}
	return refusal{}
}

// broadcastReply answers in the shape of the channel and broadcast API, whose every answer bears apns-request-id.
func (a *apns) broadcastReply(r *request, outcome refusal) answer {
	if r.id = r.get("apns-request-id"); !isUUID(r.id) {
		r.id = strings.ToUpper(uuid.NewString())
	}
	reply := answer{status: outcome.status, reason: outcome.reason, accepted: outcome.status < 300}
	reply.header = append(reply.header, passing("apns-request-id", r.id))
	if outcome.reason != "" {
		reason, _ := json.Marshal(outcome.reason)
		reply.header = append(reply.header, field("content-type", "application/json"))
		reply.body = fmt.Appendf(nil, `{"reason":%s}`, reason)
	}
	return reply
}
