// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"context"
	"fmt"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
)

func Example() {
	key, err := webpush.NewKey() // create it once: subscriptions are bound to it
	if err != nil {
		panic(err)
	}
	p, err := webpush.New(webpush.Config{Key: key, Subject: "mailto:ops@example.com"})
	if err != nil {
		panic(err)
	}

	n := &push.Notification{
		Target:   push.Target{Subscription: testBrowser().subscription("https://fcm.googleapis.com/fcm/send/abc")},
		Title:    "Your parcel is here",
		Priority: push.PriorityHigh,
	}
	request, err := p.Translate(n)
	if err != nil {
		panic(err)
	}
	origin, _ := p.Origin(n)
	fmt.Println(origin, request.Path)
	text, _ := testBrowser().decrypt(request.Body)
	fmt.Println(text)

	connection := respond(410, "") // the gateway passes a lease of the pool for origin
	o := providertest.Send(context.Background(), p, connection, n, request)
	fmt.Println(o.Verdict, o.Reason, o.ForgetToken)

	n.Subscription.Endpoint = "https://169.254.169.254/latest/meta-data/"
	_, err = p.Translate(n)
	fmt.Println(err)

	// Output:
	// https://fcm.googleapis.com /fcm/send/abc
	// {"title":"Your parcel is here"}
	// unregistered Gone true
	// subscription.endpoint: must be a URL of one of the push services in this app's configuration: fcm.googleapis.com, *.push.services.mozilla.com, *.push.apple.com, *.notify.windows.com
}
