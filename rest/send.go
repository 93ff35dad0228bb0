// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// send is POST /v1/apps/{app}/notifications: read, decode, hand on, answer.
func (a *api) send(w *answer, r *http.Request) *problem {
	if p := onlyNow(r); p != nil {
		return p
	}
	if _, p := bodyType(r, "application/json"); p != nil {
		return p
	}
	key := r.Header.Get("Idempotency-Key")
	if p := checkIdempotencyKey(key); p != nil {
		return p
	}
	body := buffers.Get().(*bytes.Buffer)
	defer release(body)
	if p := a.read(w, r, body); p != nil {
		return p
	}
	n, p := decode(body.Bytes())
	if p != nil {
		return p
	}
	accept(n, w.app)
	if key != "" {
		return a.sendOnce(w, r, key, body.Bytes(), n)
	}
	receipt := a.sender.Send(r.Context(), n)
	if r.Context().Err() == nil {
		replyTo(receipt, w.requestID).write(w)
	}
	return nil
}

// accept gives n what the gateway knows of it: a name (UUID version 7, so that names sort by time), its app and the
// time.
func accept(n *push.Notification, app string) {
	n.ID, n.App, n.AcceptedAt = uuid.Must(uuid.NewV7()).String(), app, time.Now()
}

// buffers hold bodies and answers while they come and go.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// release keeps a buffer for the next who needs one, unless it is of a size that few need.
func release(b *bytes.Buffer) {
	if b.Cap() <= 256<<10 {
		b.Reset()
		buffers.Put(b)
	}
}

// read reads the whole body into b, up to the limit and within the time that observe set.
func (a *api) read(w *answer, r *http.Request, b *bytes.Buffer) *problem {
	tooLarge := &problem{kind: bodyTooLarge, detail: "must have at most " + bytesOf(a.limits.Body)}
	if r.ContentLength > int64(a.limits.Body) {
		return tooLarge
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w.ResponseWriter, r.Body, int64(a.limits.Body))); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return tooLarge
		}
		return a.cutShort(err)
	}
	// What the body's deadline would end from here on is net/http's watch for the caller's departure.
	_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Time{})
	return nil
}

// cutShort is the problem of a body whose reading ended in err.
func (a *api) cutShort(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &problem{kind: bodyTimeout, detail: "must arrive within " + a.limits.BodyTime.String()}
	}
	return &problem{kind: bodyIncomplete, detail: "must have the length that its headers announce"}
}

// bodyType returns which of the allowed types the body has; the first stands for none.
func bodyType(r *http.Request, allowed ...string) (string, *problem) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return "", &problem{kind: unsupportedBody, field: "Content-Encoding",
			detail: "must be absent: compressed bodies are not taken"}
	}
	given := r.Header.Get("Content-Type")
	if given == "" || given == allowed[0] {
		return allowed[0], nil
	}
	media, params, err := mime.ParseMediaType(given)
	charset := params["charset"]
	if err == nil && (charset == "" || strings.EqualFold(charset, "utf-8")) {
		for _, a := range allowed {
			if media == a {
				return a, nil
			}
		}
	}
	return "", &problem{kind: unsupportedBody, field: "Content-Type",
		detail: "must be " + strings.Join(allowed, " or ") + ", in UTF-8"}
}

// onlyNow refuses what only the queue can do, rather than let a caller believe that it was done.
func onlyNow(r *http.Request) *problem {
	for _, line := range r.Header["Prefer"] {
		for preference := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return &problem{kind: needsQueue, field: "Prefer",
					detail: "respond-async needs the queue; without it the answer waits for the provider's verdict"}
			}
		}
	}
	return nil
}

// The calls that need the queue, and are refused until it exists.

func history(*answer, *http.Request) *problem {
	return &problem{kind: needsQueue,
		detail: "history needs the queue; until then the answer to a notification's POST is all of it"}
}

func cancel(*answer, *http.Request) *problem {
	return &problem{kind: needsQueue,
		detail: "there is nothing to cancel: without the queue a notification is sent while its POST waits"}
}

func events(*answer, *http.Request) *problem {
	return &problem{kind: needsQueue,
		detail: "the feed of events needs the queue; until then the receipts tell everything"}
}

// bytesOf writes a limit for people.
func bytesOf(n int) string {
	switch {
	case n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}
