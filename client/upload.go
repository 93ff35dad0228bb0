// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
)

// uploadIdleTimeout is how long an attempt to upload may make no progress.
const uploadIdleTimeout = 30 * time.Second

// Audience is the audience of a broadcast, one device on each line.
type Audience struct {
	Format AudienceFormat
	// Content must not change during the upload.
	Content io.ReadSeeker
	// Continue continues an upload of the same content that was interrupted. Otherwise the upload replaces
	// an earlier one.
	Continue bool
	// Progress is called with the number of bytes that were sent. If err is not nil, the upload was
	// interrupted, and continues at this offset. nil disables it.
	Progress func(offset int64, err error)
}

// Upload uploads the audience of a broadcast that has not started. If the connection or the gateway is
// lost, it continues where the stored part ends, until ctx ends.
func (b *Broadcasts) Upload(ctx context.Context, id string, a Audience) error {
	size, err := a.Content.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	u := &upload{Broadcasts: b, Audience: a, path: "/" + url.PathEscape(id) + "/audience", size: size}
	if u.Progress == nil {
		u.Progress = func(int64, error) {}
	}
	if !a.Continue { // an empty first part can be repeated, and what is stored after it is of this upload
		header := http.Header{"Content-Type": {contentTypes[a.Format]}, uploadComplete: {"?0"}}
		if _, err := b.call(ctx, broadcastRequest{method: http.MethodPut, path: u.path, header: header}, nil); err != nil {
			return err
		}
	}
	return u.run(ctx)
}

// The headers of an upload (draft-ietf-httpbis-resumable-upload).
const (
	uploadOffset   = "Upload-Offset"
	uploadComplete = "Upload-Complete"
)

// upload is an upload in progress.
type upload struct {
	*Broadcasts
	Audience
	path string
	size int64
}

// run makes attempts until the audience is complete.
func (u *upload) run(ctx context.Context) error {
	failures, before := 0, int64(-1)
	for {
		offset, complete, err := u.stored(ctx)
		switch {
		case err == nil && offset > u.size:
			return fmt.Errorf("client: %d bytes of the audience are stored, but the content has only %d: it is not the same", offset, u.size)
		case err == nil && complete && offset == u.size:
			u.Progress(offset, nil)
			return nil
		case err == nil:
			if offset > before {
				failures, before = 0, offset
			}
			err = u.send(ctx, offset)
		}
		if err == nil {
			u.Progress(u.size, nil)
			return nil
		}
		if failures++; !canContinue(err) {
			return err
		}
		u.Progress(max(before, 0), err)
		if !sleep.For(ctx, repeatDelay(failures, err)) {
			return fmt.Errorf("client: upload interrupted: %w", err)
		}
	}
}

// canContinue reports whether an upload can continue after an error.
func canContinue(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return isTransient(err) || ok && e.Type == "wrong-offset" // the part before is still being stored
}

// stored returns how many bytes are stored, and whether they are all.
func (u *upload) stored(ctx context.Context) (offset int64, complete bool, err error) {
	header, err := u.call(ctx, broadcastRequest{method: http.MethodHead, path: u.path}, nil)
	if err != nil {
		return 0, false, err
	}
	if offset, err = strconv.ParseInt(header.Get(uploadOffset), 10, 64); err != nil {
		return 0, false, intermediaryResponse(http.StatusOK, "the response to HEAD without "+uploadOffset).err
	}
	return offset, header.Get(uploadComplete) == "?1", nil
}

var errUploadStalled = errors.New("client: the upload made no progress for " + uploadIdleTimeout.String())

// contentError is an error of the content. A repeated attempt does not help.
type contentError struct{ error }

// Error says what has failed.
func (e contentError) Error() string { return "client: cannot read the audience: " + e.error.Error() }

// Unwrap returns the error of the content.
func (e contentError) Unwrap() error { return e.error }

// send sends the content from an offset on.
func (u *upload) send(ctx context.Context, offset int64) error {
	if _, err := u.Content.Seek(offset, io.SeekStart); err != nil {
		return contentError{err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(uploadIdleTimeout, func() { cancel(errUploadStalled) })
	defer idle.Stop()
	body := &uploadBody{upload: u, offset: offset, idle: idle, closed: make(chan struct{})}
	header := http.Header{uploadOffset: {strconv.FormatInt(offset, 10)}, uploadComplete: {"?1"}, "Content-Type": {contentTypes[u.Format]}}
	res, err := u.do(ctx, broadcastRequest{method: http.MethodPatch, path: u.path, header: header, content: body, length: u.size - offset})
	if err == nil {
		_ = res.Body.Close()
	}
	cancel(nil)
	<-body.closed // the transport reads no more
	if body.err != nil {
		return contentError{body.err}
	}
	return err
}

// uploadBody is the body of a request: the content from an offset on.
type uploadBody struct {
	*upload
	offset int64
	idle   *time.Timer
	err    error // of the content
	once   sync.Once
	closed chan struct{}
}

// Read implements io.Reader.
func (b *uploadBody) Read(p []byte) (int, error) {
	b.idle.Reset(uploadIdleTimeout)
	left := b.size - b.offset
	if left == 0 {
		return 0, io.EOF
	}
	n, err := b.Content.Read(p[:min(int64(len(p)), left)])
	if b.offset += int64(n); err == io.EOF && b.offset < b.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	b.Progress(b.offset, nil)
	return n, err
}

// Close implements io.Closer.
func (b *uploadBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}
