// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

const broadcastPath = "/4/broadcasts/apps/"

func isBroadcast(r *h2.Request) bool { return strings.HasPrefix(r.Path, broadcastPath) }

// maxBroadcast is the maximum size of the payload of a broadcast, in bytes.
const maxBroadcast = 5120

// commonBroadcastReasons holds the most common reason for each status of the channel and broadcast
// APIs.
var commonBroadcastReasons = map[int]string{
	400: "ChannelNotRegistered", 403: "InvalidProviderToken", 404: "BadPath", 405: "MethodNotAllowed", 413: "PayloadTooLarge",
	429: "TooManyRequests", 500: "InternalServerError", 503: "ServiceUnavailable",
}

// respondBroadcast responds to a broadcast, as described in "Sending broadcast push notification
// requests to APNs" (read 2026-11).
func (c *Conn) respondBroadcast(r *h2.Request) h2.Response {
	if rejected := c.checkBroadcast(r); rejected.status != 0 {
		return broadcastResponse(r, rejected)
	}
	return broadcastResponse(r, rejection{status: 200})
}

// checkBroadcast returns the first reason to reject a broadcast. The order of APNs' checks is not
// documented.
func (c *Conn) checkBroadcast(r *h2.Request) rejection {
	bundle := strings.TrimPrefix(r.Path, broadcastPath)
	if r.Method != "POST" {
		return rejection{405, "MethodNotAllowed"}
	}
	if bundle == "" || strings.ContainsAny(bundle, "/?#") {
		return rejection{404, "BadPath"}
	}
	if rejected := c.authenticate(r); rejected.status != 0 {
		return rejected
	}
	if rejected := c.checkBundle(r, bundle); rejected.status != 0 {
		return rejected
	}
	policy, rejected := c.findChannel(r, app{bundle, isSandbox(r)})
	if rejected.status != 0 {
		return rejected
	}
	if reason := checkBroadcastHeader(r, policy); reason != "" {
		return rejection{400, reason}
	}
	return checkBroadcastPayload(r)
}

// checkBundle checks apns-request-id, and the bundle ID in the path against the credential. The
// bundle ID has no suffix.
func (c *Conn) checkBundle(r *h2.Request, bundle string) rejection {
	if r.Has("apns-request-id") && !isUUID(r.Get("apns-request-id")) {
		return rejection{400, "BadMessageId"}
	}
	if c.cert != nil && !slices.Contains(topicsOf(c.cert), bundle) {
		return rejection{403, "TopicMismatch"}
	}
	if c.cert == nil && !slices.Contains(c.key.Topics, bundle) {
		return rejection{400, "TopicDisallowed"}
	}
	return rejection{}
}

// findChannel returns the storage policy of the channel in r.Token.
func (s *Service) findChannel(r *h2.Request, in app) (policy int, rejected rejection) {
	if r.Token == "" {
		return 0, rejection{400, "MissingChannelId"}
	}
	if _, err := base64.StdEncoding.DecodeString(r.Token); err != nil {
		return 0, rejection{400, "BadChannelId"}
	}
	policy, ok := s.channels.policy(in, r.Token)
	if !ok {
		return 0, rejection{400, "ChannelNotRegistered"}
	}
	return policy, rejection{}
}

// checkBroadcastHeader checks the header fields. A channel with storage policy 0 allows no expiration
// other than 0.
func checkBroadcastHeader(r *h2.Request, policy int) (reason string) {
	pushType, expiration := r.Get("apns-push-type"), cmp.Or(r.Get("apns-expiration"), "0")
	switch {
	case pushType == "":
		return "MissingPushType"
	case pushType != "liveactivity":
		return "InvalidPushType"
	case !isNumber(expiration), policy == 0 && expiration != "0":
		return "BadExpirationDate"
	case r.Has("apns-priority") && !validPriority(pushType, r.Get("apns-priority")):
		return "BadPriority"
	}
	return ""
}

// checkBroadcastPayload checks that the payload is a JSON object that does not start an activity,
// which a broadcast cannot do. The reason BadRequestPayload is a guess.
func checkBroadcastPayload(r *h2.Request) rejection {
	if len(r.Body) == 0 {
		return rejection{400, "PayloadEmpty"}
	}
	if len(r.Body) > maxBroadcast || r.TooLong {
		return rejection{413, "PayloadTooLarge"}
	}
	var payload struct{ APS struct{ Event string } }
	if json.Unmarshal(r.Body, &payload) != nil || payload.APS.Event == "start" {
		return rejection{400, "BadRequestPayload"}
	}
	return rejection{}
}

// broadcastResponse responds in the format of the channel and broadcast APIs, in which every response
// has an apns-request-id. A status below 300 is a success.
func broadcastResponse(r *h2.Request, result rejection) h2.Response {
	if r.ID = r.Get("apns-request-id"); !isUUID(r.ID) {
		r.ID = strings.ToUpper(uuid.NewString())
	}
	resp := h2.Response{Status: result.status, Reason: result.reason, Accepted: result.status < 300}
	resp.Header = append(resp.Header, h2.UniqueField("apns-request-id", r.ID))
	if result.reason != "" {
		reason, _ := json.Marshal(result.reason)
		resp.Header = append(resp.Header, h2.Field("content-type", "application/json"))
		resp.Body = fmt.Appendf(nil, `{"reason":%s}`, reason)
	}
	return resp
}

// broadcastFault responds as the fault specifies.
func broadcastFault(r *h2.Request, f *script.Fault) h2.Response {
	resp := broadcastResponse(r, rejection{f.Status, cmp.Or(f.Reason, commonBroadcastReasons[f.Status])})
	resp.AddRetryAfter(f.RetryAfter)
	return resp
}
