// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

func TestAnAnswerComesBackWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		done := h.send(t.Context(), post("/3/device/aa"))
		head := h.peer.next(http2.FrameHeaders)
		if head.fields[":path"] != "/3/device/aa" || head.fields[":authority"] != "push.example" ||
			head.fields[":method"] != "POST" || head.fields[":scheme"] != "https" || head.fields["apns-topic"] != "com.example" {
			t.Errorf("the head is %v", head.fields)
		}
		if body := h.peer.next(http2.FrameData); body.body != "{}" || !body.ends() {
			t.Errorf("the body is %v", body)
		}
		h.peer.sendHead(head.stream, false, ":status", "400", "apns-id", "X")
		h.peer.do(h.peer.fr.WriteData(head.stream, true, []byte(`{"reason":"BadDeviceToken"}`)))
		res := wantStatus(t, <-done, 400)
		if res.Get("apns-id") != "X" || string(res.Body) != `{"reason":"BadDeviceToken"}` {
			t.Errorf("got %+v", res)
		}
	})
}
