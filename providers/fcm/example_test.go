// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
)

func Example() {
	p, err := fcm.New(fcm.Config{
		Account:     keyFile(),                             // the key file of a service account
		TokenClient: &http.Client{Transport: &fakeOAuth{}}, // nil uses Google's token endpoint
	})
	if err != nil {
		panic(err)
	}

	n := &push.Notification{
		Target: push.Target{Topic: "news"},
		Title:  "Goal",
		Data:   map[string]string{"match": "42"},
		FCM:    &push.FCMBlock{Message: []byte(`{"android":{"notification":{"channel_id":"scores"}}}`)},
	}
	request, err := p.Translate(n)
	if err != nil {
		panic(err)
	}
	fmt.Println(request.Path)
	fmt.Println(string(request.Body))

	connection := respond(429, errorResponse(429, "RESOURCE_EXHAUSTED", "Topic quota exceeded.", fcmError("QUOTA_EXCEEDED"))) // the gateway passes a pool lease
	o := providertest.Send(context.Background(), p, connection, n, request)
	fmt.Println(o.Verdict, o.Reason, o.Scope, o.RetryAfter)

	// Output:
	// /v1/projects/demo-project/messages:send
	// {"message":{"topic":"news","notification":{"title":"Goal"},"data":{"match":"42"},"android":{"notification":{"channel_id":"scores"}}}}
	// throttled QUOTA_EXCEEDED topic 1m0s
}
