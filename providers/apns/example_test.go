// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"context"
	"fmt"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
)

func Example() {
	signer, err := apns.NewSigner(apns.SignerConfig{Key: encodeP8(testKey()), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ"})
	if err != nil {
		panic(err)
	}
	p, err := apns.New(apns.Config{Topic: "com.example.shop", Signer: signer})
	if err != nil {
		panic(err)
	}

	n := &push.Notification{
		ID:     "eabeae54-14a8-11e5-b60b-1697f925ec7b",
		Target: push.Target{Token: "00fc13adff785122"},
		Title:  "Your parcel is here",
		Data:   map[string]string{"order": "1234"},
	}
	request, err := p.Translate(n)
	if err != nil {
		panic(err)
	}
	fmt.Println(request.Path)
	fmt.Println(string(request.Body))

	connection := respond(410, `{"reason":"Unregistered","timestamp":1454948015990}`) // the gateway passes a pool lease
	o := providertest.Send(context.Background(), p, connection, n, request)
	fmt.Println(o.Verdict, o.Reason, o.ForgetToken, o.DeadSince)

	_, err = p.Translate(&push.Notification{Target: push.Target{Token: "../../etc"}, Title: "Hi"})
	fmt.Println(err)

	// Output:
	// /3/device/00fc13adff785122
	// {"aps":{"alert":{"title":"Your parcel is here"}},"order":"1234"}
	// unregistered Unregistered true 2016-02-08 16:13:35.99 +0000 UTC
	// token: must be an even number of hex digits, 2 to 200
}
