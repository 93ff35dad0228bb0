// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"
	jsonv2 "github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
)

// Channels manages the broadcast channels of apps. It is called from many goroutines at once.
type Channels interface {
	// Manage makes one call. The receipt tells how it ended; where it is Accepted, the channels are those that the call is
	// about, and none after a delete.
	Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt)
}

// listChannels is GET /v1/apps/{app}/channels.
func (a *server) listChannels(w *response, r *http.Request) *problem {
	found, p := a.manage(w, r, push.ChannelCall{Action: push.ListChannels})
	if p != nil {
		return p
	}
	return replyJSON(w, http.StatusOK, struct {
		Channels []push.Channel `json:"channels"`
	}{found})
}

// createChannel is POST /v1/apps/{app}/channels.
func (a *server) createChannel(w *response, r *http.Request) *problem {
	storage, p := a.readStorage(w, r)
	if p != nil {
		return p
	}
	made, p := a.manage(w, r, push.ChannelCall{Action: push.CreateChannel, Channel: push.Channel{Storage: storage}})
	if p != nil {
		return p
	}
	at := url.URL{Path: r.URL.Path + "/" + made[0].ID, RawPath: r.URL.EscapedPath() + "/" + url.PathEscape(made[0].ID), RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", at.String())
	return replyJSON(w, http.StatusCreated, made[0])
}

// showChannel is GET /v1/apps/{app}/channels/{id}.
func (a *server) showChannel(w *response, r *http.Request) *problem {
	found, p := a.manage(w, r, push.ChannelCall{Action: push.ReadChannel, Channel: push.Channel{ID: channelID(r)}})
	if p != nil {
		return p
	}
	return replyJSON(w, http.StatusOK, found[0])
}

// deleteChannel is DELETE /v1/apps/{app}/channels/{id}.
func (a *server) deleteChannel(w *response, r *http.Request) *problem {
	if _, p := a.manage(w, r, push.ChannelCall{Action: push.DeleteChannel, Channel: push.Channel{ID: channelID(r)}}); p != nil {
		return p
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// channelID is the path's last part. It is base64, whose slash stands there as %2F.
func channelID(r *http.Request) string {
	id, err := url.PathUnescape(chi.URLParam(r, "id"))
	if err != nil {
		return ""
	}
	return id
}

// readStorage reads what the new channel is to keep.
func (a *server) readStorage(w *response, r *http.Request) (push.Storage, *problem) {
	if _, p := bodyType(r, "application/json"); p != nil {
		return "", p
	}
	body := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(body)
	if p := a.readBody(w, r, body); p != nil {
		return "", p
	}
	var in struct {
		Storage push.Storage `json:"storage"`
	}
	if err := jsonv2.Unmarshal(body.Bytes(), &in, strict); err != nil {
		p := mapDecodeError(err, body.Bytes())
		if p.kind == invalidField && p.field == "" {
			p.detail = `must be one JSON object, such as {"storage":"latest"}`
		}
		return "", p
	}
	if in.Storage == "" {
		return "", invalid("storage", in.Storage.UnmarshalText(nil).Error())
	}
	return in.Storage, nil
}

// manage makes a call in the environment that the query names.
func (a *server) manage(w *response, r *http.Request, call push.ChannelCall) ([]push.Channel, *problem) {
	call.App = w.app
	if named := r.URL.Query().Get("environment"); named != "" {
		if err := call.Environment.UnmarshalText([]byte(named)); err != nil {
			return nil, invalid("environment", err.Error())
		}
	}
	if a.channels == nil {
		return nil, invalid("app", "must have channels; no app of this gateway does")
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.limits.SendTimeout)
	defer cancel()
	found, receipt := a.channels.Manage(ctx, call)
	return found, channelProblem(receipt, call.Action)
}

// channelProblem returns why a call about channels was not done, or nil if it was.
func channelProblem(r push.Receipt, act push.ChannelAction) *problem {
	switch {
	case r.Verdict == push.Accepted:
		return nil
	case r.Verdict == push.Unregistered:
		return &problem{kind: notFound, field: "id", detail: "id: " + r.Reason + ": the app has no such channel in this environment"}
	case r.Verdict == push.Refused && len(r.Attempts) > 0:
		return withReceipt(r, problem{kind: refusedByProvider, detail: cmp.Or(r.Detail, "Apple will never do this as it is")})
	case r.Verdict == push.Unknown && act == push.CreateChannel:
		return withReceipt(r, problem{kind: unknown, detail: "look through the list before you create it again: it may be there"})
	case r.Verdict == push.Unknown:
		return withReceipt(r, problem{kind: unknown, detail: "it is safe to make the call again"})
	}
	return problemFor(r)
}

// replyJSON answers with a value as JSON.
func replyJSON(w *response, status int, v any) *problem {
	body, err := json.Marshal(v)
	if err != nil {
		return &problem{kind: internal}
	}
	reply{status: status, contentType: jsonType, body: append(body, '\n')}.write(w)
	return nil
}
