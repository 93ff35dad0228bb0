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
	async, p := a.async(r)
	if p != nil {
		return p
	}
	if _, p := bodyType(r, "application/json"); p != nil {
		return p
	}
	key := r.Header.Get("Idempotency-Key")
	if !checkIdempotencyKey(key) {
		return &problem{kind: invalidHeader, field: "Idempotency-Key", detail: keyAllowed}
	}
	body := buffers.Get().(*bytes.Buffer)
	defer release(body)
	if p := a.read(w, r, body); p != nil {
		return p
	}
	n, p := decode(body.Bytes())
	if p == nil {
		p = a.mayWait(n, async)
	}
	if p != nil {
		return p
	}
	name(n, w.app)
	o := newOrder(n, key, body.Bytes())
	if async {
		a.accept(r.Context(), []*order{o})
	} else {
		o.wait = wait(r)
		a.carry(r.Context(), o)
	}
	if r.Context().Err() == nil {
		o.end.reply(w, async).write(w)
	}
	return nil
}

// name gives n what the gateway knows of it: a name (UUID version 7, so that names sort by time), its app and the
// time.
func name(n *push.Notification, app string) {
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
