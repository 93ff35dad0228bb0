// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// The topic subscriptions of registrations, from "REST Resource:
// projects.registrations.topicSubscriptions" (read 2026-11): create, get, delete and list.

const (
	// maxTopics is the maximum number of topics of a registration.
	maxTopics = 2000
	// defaultTopicPage is the size of a page without pageSize.
	defaultTopicPage = 1000
)

// topicCall is what the path of a request says.
type topicCall struct {
	project, registration string
	topic                 string // of one subscription; empty for the collection
	query                 url.Values
}

// parseTopicPath parses /v1/projects/{project}/registrations/{registration}/topicSubscriptions, with or
// without /{topic}. ok is false for another path.
func parseTopicPath(path string) (call topicCall, ok bool) {
	if !strings.Contains(path, "/topicSubscriptions") { // most requests are messages
		return topicCall{}, false
	}
	path, query, _ := strings.Cut(path, "?")
	parts := strings.Split(strings.TrimPrefix(path, "/v1/"), "/")
	if len(parts) < 5 || len(parts) > 6 || parts[0] != "projects" || parts[2] != "registrations" || parts[4] != "topicSubscriptions" {
		return topicCall{}, false
	}
	for i := range parts {
		unescaped, err := url.PathUnescape(parts[i])
		if err != nil {
			return topicCall{}, false
		}
		parts[i] = unescaped
	}
	call = topicCall{project: parts[1], registration: parts[3]}
	if len(parts) == 6 {
		call.topic = parts[5]
	}
	var err error
	call.query, err = url.ParseQuery(query)
	return call, err == nil
}

// param returns a query parameter, whose name may be in either form of gRPC transcoding.
func (c *topicCall) param(camel, snake string) string {
	if value := c.query.Get(camel); value != "" {
		return value
	}
	return c.query.Get(snake)
}

// subscription is the JSON form of a subscription.
type subscription struct {
	Name       string    `json:"name"`
	Topic      string    `json:"topic_name"`
	CreateTime time.Time `json:"create_time"`
}

// subscriptions holds the time of each subscription, by registration and topic. It is safe for concurrent
// use.
type subscriptions struct {
	mu    sync.Mutex
	times map[string]map[string]time.Time
}

// respondTopic responds to a request for the topics of a registration.
func (s *Service) respondTopic(r *h2.Request, call topicCall) h2.Response {
	r.Token = call.registration
	if call.project != s.project {
		return errNoPermission(call.project).response()
	}
	if err := checkRegistration(call.registration); err != nil {
		return err.response()
	}
	var body any
	var failed *fcmError
	switch method := r.Method; {
	case method == "POST" && call.topic == "":
		body, failed = s.topics.create(call, r.Body)
	case method == "GET" && call.topic == "":
		body, failed = s.topics.list(call)
	case method == "GET":
		body, failed = s.topics.get(call)
	case method == "DELETE" && call.topic != "":
		body, failed = struct{}{}, s.topics.remove(call)
	default:
		failed = errNotFound()
	}
	if failed != nil {
		return failed.response()
	}
	text, _ := json.MarshalIndent(body, "", "  ")
	resp := h2.Response{Status: 200, Body: append(text, '\n')} // not Accepted: it is no notification
	resp.Header = append(resp.Header, h2.Field("content-type", "application/json; charset=UTF-8"))
	return resp
}

// checkRegistration makes the checks of a registration token or a Firebase installation ID. A registration
// that does not exist has the status NOT_FOUND without an FcmError, which is an assumption.
func checkRegistration(registration string) *fcmError {
	m := message{target: "token", value: registration}
	if !strings.Contains(registration, ":") {
		m.target = "fid"
	}
	err := checkToken(m)
	if err != nil && err.Code == 404 {
		return errNotFound()
	}
	return err
}

func errNotFound() *fcmError {
	return &fcmError{Code: 404, Status: "NOT_FOUND", Message: "Requested entity was not found."}
}

func (s *subscriptions) create(call topicCall, body []byte) (subscription, *fcmError) {
	topic := call.param("topicName", "topic_name")
	var empty map[string]any
	switch {
	case !isTopicName(topic):
		return subscription{}, newParseError("Invalid topic name.", "topic_name")
	case len(body) > 0 && json.Unmarshal(body, &empty) != nil:
		return subscription{}, errSyntax()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	topics := s.times[call.registration]
	if _, exists := topics[topic]; exists {
		return subscription{}, &fcmError{Code: 409, Status: "ALREADY_EXISTS", Message: "Requested entity already exists"}
	}
	if len(topics) >= maxTopics { // which error Google sends is not documented
		return subscription{}, &fcmError{Code: 400, Status: "FAILED_PRECONDITION", Message: "The app instance is subscribed to too many topics."}
	}
	if topics == nil {
		topics = map[string]time.Time{}
		if s.times == nil {
			s.times = map[string]map[string]time.Time{}
		}
		s.times[call.registration] = topics
	}
	topics[topic] = time.Now().UTC()
	return call.subscription(topic, topics[topic]), nil
}

func (s *subscriptions) get(call topicCall) (subscription, *fcmError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, exists := s.times[call.registration][call.topic]
	if !exists {
		return subscription{}, errNotFound()
	}
	return call.subscription(call.topic, at), nil
}

func (s *subscriptions) remove(call topicCall) *fcmError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.times[call.registration][call.topic]; !exists && call.param("allowMissing", "allow_missing") != "true" {
		return errNotFound()
	}
	delete(s.times[call.registration], call.topic)
	return nil
}

// topicPage is the JSON form of a page.
type topicPage struct {
	Subscriptions []subscription `json:"topic_subscriptions,omitempty"`
	Next          string         `json:"next_page_token,omitempty"`
}

// list returns a page in the order of the names. The token of a page is the last name of the one before.
func (s *subscriptions) list(call topicCall) (page topicPage, failed *fcmError) {
	size, err := strconv.Atoi(call.param("pageSize", "page_size"))
	if err != nil || size <= 0 {
		size = defaultTopicPage
	}
	size = min(size, maxTopics)
	after := call.param("pageToken", "page_token")
	if after != "" && !isTopicName(after) {
		return page, newParseError("Invalid page token.", "page_token")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	topics := s.times[call.registration]
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		switch {
		case topic <= after:
		case len(page.Subscriptions) == size:
			page.Next = page.Subscriptions[size-1].Topic
			return page, nil
		default:
			page.Subscriptions = append(page.Subscriptions, call.subscription(topic, topics[topic]))
		}
	}
	return page, nil
}

func (c *topicCall) subscription(topic string, at time.Time) subscription {
	return subscription{"projects/" + c.project + "/registrations/" + c.registration + "/topicSubscriptions/" + topic, topic, at}
}

// isTopicName reports whether s is the name of a topic: [a-zA-Z0-9-_.~%]{1,900}.
func isTopicName(s string) bool {
	return s != "" && len(s) <= 900 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~%") == ""
}
