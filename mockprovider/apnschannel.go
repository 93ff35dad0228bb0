// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// apnsManage plays channel management as "Sending channel management requests to APNs" describes it (read 2026-11):
// create, read, delete and list. Its host answers a bare GET by MissingProviderToken, so the credential comes first.
type apnsManage struct{ *apns }

var _ service = (*apnsManage)(nil)

// maxChannels is how many an app may have in each environment.
const maxChannels = 10_000

// realm is an app in one environment. Channels are not shared between the two.
type realm struct {
	bundle  string
	sandbox bool
}

// channels knows every channel and its storage policy: 0 keeps nothing, 1 the most recent message.
type channels struct {
	mu     sync.Mutex
	policy map[realm]map[string]int
}

func newChannels() *channels { return &channels{policy: map[realm]map[string]int{}} }

// create makes a channel, unless the app has its 10,000.
func (c *channels) create(in realm, policy int) (id string, ok bool) {
	raw := make([]byte, 12)
	_, _ = rand.Read(raw)
	id = base64.StdEncoding.EncodeToString(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy[in] == nil {
		c.policy[in] = map[string]int{}
	}
	if len(c.policy[in]) >= maxChannels {
		return "", false
	}
	c.policy[in][id] = policy
	return id, true
}

func (c *channels) lookUp(in realm, id string) (policy int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	policy, ok = c.policy[in][id]
	return policy, ok
}

func (c *channels) remove(in realm, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.policy[in], id)
}

// list is in the order of the IDs, for the service's is not documented.
func (c *channels) list(in realm) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.policy[in]))
}

func (a *apnsManage) find(r *request) { r.token = r.get("apns-channel-id") }

func (a *apnsManage) scripted(r *request, f *Fault) answer {
	reply := a.broadcastReply(r, refusal{f.Status, or(f.Reason, broadcastReasons[f.Status])})
	reply.retryAfter(f.RetryAfter)
	return reply
}

func (a *apnsManage) judge(p *peer, r *request) answer {
	a.find(r)
	if refused := a.authenticate(p, r); refused.status != 0 {
		return a.broadcastReply(r, refused)
	}
	path, query, _ := strings.Cut(r.path, "?")
	bundle, collection := splitChannelPath(path)
	if bundle == "" {
		return a.broadcastReply(r, refusal{404, "BadPath"})
	}
	if refused := a.badApp(p, r, bundle); refused.status != 0 {
		return a.broadcastReply(r, refused)
	}
	if query != "" {
		return a.broadcastReply(r, refusal{400, "BadRequestParams"})
	}
	in := realm{bundle, r.sandbox()}
	switch r.method + " " + collection {
	case "POST channels":
		return a.create(r, in)
	case "GET channels":
		return a.read(r, in)
	case "DELETE channels":
		return a.remove(r, in)
	case "GET all-channels":
		return a.list(r, in)
	}
	return a.broadcastReply(r, refusal{405, "MethodNotAllowed"})
}

// splitChannelPath reads /1/apps/{bundle}/channels and …/all-channels; bundle is empty for any other path.
func splitChannelPath(path string) (bundle, collection string) {
	rest, ok := strings.CutPrefix(path, "/1/apps/")
	bundle, collection, whole := strings.Cut(rest, "/")
	if !ok || !whole || collection != "channels" && collection != "all-channels" {
		return "", ""
	}
	return bundle, collection
}

func (a *apnsManage) create(r *request, in realm) answer {
	policy, refused := readChannel(r.body)
	if refused.status != 0 {
		return a.broadcastReply(r, refused)
	}
	id, ok := a.channels.create(in, policy)
	if !ok {
		return a.broadcastReply(r, refusal{400, "CannotCreateChannelConfig"})
	}
	r.token = id
	reply := a.broadcastReply(r, refusal{status: 201})
	reply.header = append(reply.header, passing("apns-channel-id", id))
	return reply
}

// readChannel wants {"message-storage-policy": 0 or 1, "push-type": "LiveActivity"}.
func readChannel(body []byte) (policy int, refused refusal) {
	if len(body) == 0 {
		return 0, refusal{400, "PayloadEmpty"}
	}
	var c struct {
		Policy   *int    `json:"message-storage-policy"`
		PushType *string `json:"push-type"`
	}
	read := json.NewDecoder(bytes.NewReader(body))
	read.DisallowUnknownFields()
	switch err := read.Decode(&c); {
	case err != nil || read.More():
		return 0, refusal{400, "BadRequestPayload"}
	case c.PushType == nil:
		return 0, refusal{400, "MissingPushType"}
	case *c.PushType != "LiveActivity":
		return 0, refusal{400, "InvalidPushType"}
	case c.Policy == nil || *c.Policy != 0 && *c.Policy != 1:
		return 0, refusal{400, "BadRequestPayload"}
	}
	return *c.Policy, refusal{}
}

func (a *apnsManage) read(r *request, in realm) answer {
	policy, refused := a.channel(r, in)
	if refused.status != 0 {
		return a.broadcastReply(r, refused)
	}
	return a.tell(r, fmt.Appendf(nil, `{"message-storage-policy":%s,"push-type":"LiveActivity"}`, strconv.Itoa(policy)))
}

func (a *apnsManage) remove(r *request, in realm) answer {
	if _, refused := a.channel(r, in); refused.status != 0 {
		return a.broadcastReply(r, refused)
	}
	a.channels.remove(in, r.token)
	return a.broadcastReply(r, refusal{status: 204})
}

func (a *apnsManage) list(r *request, in realm) answer {
	body, _ := json.Marshal(struct {
		Channels []string `json:"channels"`
	}{append([]string{}, a.channels.list(in)...)})
	return a.tell(r, body)
}

// tell answers 200 with a body.
func (a *apnsManage) tell(r *request, body []byte) answer {
	reply := a.broadcastReply(r, refusal{status: 200})
	reply.header = append(reply.header, field("content-type", "application/json"))
	reply.body = body
	return reply
}
