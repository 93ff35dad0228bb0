// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider/fcm"
	"github.com/sluice-push/sluice/mockprovider/h2"
)

// topics makes a request to the topic subscriptions of the mock, and returns the response as one line.
func topics(t *testing.T, s *fcm.Service, method, path, body string) (h2.Response, string) {
	t.Helper()
	r := request(body)
	r.Method, r.Path = method, "/v1/projects/demo-project/registrations/"+path
	response := s.Respond(r)
	if response.Accepted {
		t.Errorf("%s %s counts as a notification", method, path)
	}
	return response, strings.Join(strings.Fields(string(response.Body)), "")
}

func TestTopicSubscriptions(t *testing.T) {
	s := newMock()
	const at = registrationToken + "/topicSubscriptions"
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", at + "?topicName=a%2541", "{}", 200, `"topic_name":"a%41"`},
		{"POST", at + "?topic_name=b", "", 200, `"topic_name":"b"`},
		{"POST", at + "?topicName=b", "{}", 409, "ALREADY_EXISTS"},
		{"POST", at + "?topicName=a+b", "{}", 400, "INVALID_ARGUMENT"},
		{"POST", at, "{}", 400, "INVALID_ARGUMENT"},
		{"POST", at + "?topicName=c", "[", 400, "INVALID_ARGUMENT"},
		{"GET", at + "/b", "", 200, "/topicSubscriptions/b"},
		{"GET", at + "/c", "", 404, "NOT_FOUND"},
		{"GET", at + "?pageSize=1", "", 200, `"next_page_token":"a%41"`},
		{"GET", at + "?pageSize=1&pageToken=a%2541", "", 200, `"topic_name":"b"`},
		{"DELETE", at + "/c", "", 404, "NOT_FOUND"},
		{"DELETE", at + "/c?allowMissing=true", "", 200, "{}"},
		{"DELETE", at + "/b", "", 200, "{}"},
		{"GET", at + "/b", "", 404, "NOT_FOUND"},
		{"PATCH", at, "{}", 404, "NOT_FOUND"},
		{"GET", "id:dead/topicSubscriptions", "", 404, "NOT_FOUND"},
		{"GET", "id:bad/topicSubscriptions", "", 400, "INVALID_ARGUMENT"},
		{"GET", "dGhpcy1pcy1hLUZJRC0wMQ/topicSubscriptions", "", 200, "{}"},
	} {
		response, body := topics(t, s, c.method, c.path, c.body)
		if response.Status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, response.Status, body, c.status, c.want)
		}
	}
	r := request("")
	r.Method, r.Path = "GET", "/v1/projects/other/registrations/a:b/topicSubscriptions"
	if response := s.Respond(r); response.Status != 403 {
		t.Errorf("another project: %d", response.Status)
	}
}

func TestTopicLimitOfRegistration(t *testing.T) {
	s := newMock()
	for i := range 2001 {
		response, body := topics(t, s, "POST", fmt.Sprintf("a:b/topicSubscriptions?topicName=t%d", i), "{}")
		if want := map[bool]int{true: 200, false: 400}[i < 2000]; response.Status != want {
			t.Fatalf("topic %d: %d %s", i, response.Status, body)
		}
	}
}
