// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// ManageConn is one connection for channel management, as described in "Sending channel management
// requests to APNs" (read 2026-11): create, read, delete and list. It is not safe for concurrent use.
type ManageConn struct{ *Conn }

var _ script.Service = (*ManageConn)(nil)

// ManageConn returns a new connection of a client. cert is its verified certificate, nil for none.
func (s *Service) ManageConn(cert *x509.Certificate) *ManageConn { return &ManageConn{s.Conn(cert)} }

// Find sets r.Token to the channel ID.
func (c *ManageConn) Find(r *h2.Request) { r.Token = r.Get("apns-channel-id") }

// RespondFault responds as the fault specifies.
func (c *ManageConn) RespondFault(r *h2.Request, f *script.Fault) h2.Response {
	return broadcastFault(r, f)
}

// Respond responds to a request of channel management. It checks the credential first, because
// Apple's host responds to a bare GET with MissingProviderToken.
func (c *ManageConn) Respond(r *h2.Request) h2.Response {
	c.Find(r)
	if rejected := c.authenticate(r); rejected.status != 0 {
		return broadcastResponse(r, rejected)
	}
	path, query, _ := strings.Cut(r.Path, "?")
	bundle, collection := splitChannelPath(path)
	if bundle == "" {
		return broadcastResponse(r, rejection{404, "BadPath"})
	}
	if rejected := c.checkBundle(r, bundle); rejected.status != 0 {
		return broadcastResponse(r, rejected)
	}
	if query != "" {
		return broadcastResponse(r, rejection{400, "BadRequestParams"})
	}
	in := app{bundle, isSandbox(r)}
	switch r.Method + " " + collection {
	case "POST channels":
		return c.createChannel(r, in)
	case "GET channels":
		return c.readChannel(r, in)
	case "DELETE channels":
		return c.deleteChannel(r, in)
	case "GET all-channels":
		return c.listChannels(r, in)
	}
	return broadcastResponse(r, rejection{405, "MethodNotAllowed"})
}

// splitChannelPath splits /1/apps/{bundle}/channels and …/all-channels. bundle is empty for any other
// path.
func splitChannelPath(path string) (bundle, collection string) {
	rest, ok := strings.CutPrefix(path, "/1/apps/")
	bundle, collection, found := strings.Cut(rest, "/")
	if !ok || !found || collection != "channels" && collection != "all-channels" {
		return "", ""
	}
	return bundle, collection
}

func (c *ManageConn) createChannel(r *h2.Request, in app) h2.Response {
	policy, rejected := parseChannel(r.Body)
	if rejected.status != 0 {
		return broadcastResponse(r, rejected)
	}
	id, ok := c.channels.create(in, policy)
	if !ok {
		return broadcastResponse(r, rejection{400, "CannotCreateChannelConfig"})
	}
	r.Token = id
	resp := broadcastResponse(r, rejection{status: 201})
	resp.Header = append(resp.Header, h2.UniqueField("apns-channel-id", id))
	return resp
}

// parseChannel parses {"message-storage-policy": 0 or 1, "push-type": "LiveActivity"}.
func parseChannel(body []byte) (policy int, rejected rejection) {
	if len(body) == 0 {
		return 0, rejection{400, "PayloadEmpty"}
	}
	var c struct {
		Policy   *int    `json:"message-storage-policy"`
		PushType *string `json:"push-type"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&c); {
	case err != nil || dec.More():
		return 0, rejection{400, "BadRequestPayload"}
	case c.PushType == nil:
		return 0, rejection{400, "MissingPushType"}
	case *c.PushType != "LiveActivity":
		return 0, rejection{400, "InvalidPushType"}
	case c.Policy == nil || *c.Policy != 0 && *c.Policy != 1:
		return 0, rejection{400, "BadRequestPayload"}
	}
	return *c.Policy, rejection{}
}

func (c *ManageConn) readChannel(r *h2.Request, in app) h2.Response {
	policy, rejected := c.findChannel(r, in)
	if rejected.status != 0 {
		return broadcastResponse(r, rejected)
	}
	return jsonResponse(r, fmt.Appendf(nil, `{"message-storage-policy":%s,"push-type":"LiveActivity"}`, strconv.Itoa(policy)))
}

func (c *ManageConn) deleteChannel(r *h2.Request, in app) h2.Response {
	if _, rejected := c.findChannel(r, in); rejected.status != 0 {
		return broadcastResponse(r, rejected)
	}
	c.channels.remove(in, r.Token)
	return broadcastResponse(r, rejection{status: 204})
}

func (c *ManageConn) listChannels(r *h2.Request, in app) h2.Response {
	body, _ := json.Marshal(struct {
		Channels []string `json:"channels"`
	}{append([]string{}, c.channels.list(in)...)})
	return jsonResponse(r, body)
}

// jsonResponse responds 200 with a body.
func jsonResponse(r *h2.Request, body []byte) h2.Response {
	resp := broadcastResponse(r, rejection{status: 200})
	resp.Header = append(resp.Header, h2.Field("content-type", "application/json"))
	resp.Body = body
	return resp
}

// maxChannels is the maximum number of channels of an app in one environment.
const maxChannels = 10_000

// app is an app in one environment. The environments do not share channels.
type app struct {
	bundle  string
	sandbox bool
}

// channels holds the storage policy of each channel: 0 stores no message, 1 stores the most recent
// one. It is safe for concurrent use.
type channels struct {
	mu       sync.Mutex
	policies map[app]map[string]int // by app and channel ID
}

func newChannels() *channels { return &channels{policies: map[app]map[string]int{}} }

// create creates a channel. ok is false if the app has maxChannels channels.
func (c *channels) create(in app, policy int) (id string, ok bool) {
	raw := make([]byte, 12)
	_, _ = rand.Read(raw)
	id = base64.StdEncoding.EncodeToString(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policies[in] == nil {
		c.policies[in] = map[string]int{}
	}
	if len(c.policies[in]) >= maxChannels {
		return "", false
	}
	c.policies[in][id] = policy
	return id, true
}

func (c *channels) policy(in app, id string) (policy int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	policy, ok = c.policies[in][id]
	return policy, ok
}

func (c *channels) remove(in app, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.policies[in], id)
}

// list returns the channel IDs in ascending order. APNs' order is not documented.
func (c *channels) list(in app) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.policies[in]))
}
