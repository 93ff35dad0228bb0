// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"github.com/sluice-push/sluice/push"
)

// Channels manages the broadcast channels of apps. It is safe for concurrent use.
type Channels interface {
	// Manage executes one call. The receipt contains the result. If it is Accepted, the channels
	// are the result of the call, and none after a delete.
	Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt)
}

// listChannels handles GET /v1/apps/{app}/channels.
func (s *server) listChannels(w *response, r *http.Request) *problem {
	channels, p := s.manage(w, r, push.ChannelCall{Action: push.ListChannels})
	if p != nil {
		return p
	}
	return replyJSON(w, http.StatusOK, struct {
		Channels []push.Channel `json:"channels"`
	}{channels})
}

// createChannel handles POST /v1/apps/{app}/channels.
func (s *server) createChannel(w *response, r *http.Request) *problem {
	storage, p := s.readStorage(w, r)
	if p != nil {
		return p
	}
	created, p := s.manage(w, r, push.ChannelCall{Action: push.CreateChannel, Channel: push.Channel{Storage: storage}})
	if p != nil {
		return p
	}
	location := url.URL{Path: r.URL.Path + "/" + created[0].ID, RawPath: r.URL.EscapedPath() + "/" + url.PathEscape(created[0].ID), RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", location.String())
	return replyJSON(w, http.StatusCreated, created[0])
}

// showChannel handles GET /v1/apps/{app}/channels/{id}.
func (s *server) showChannel(w *response, r *http.Request) *problem {
	channels, p := s.manage(w, r, push.ChannelCall{Action: push.ReadChannel, Channel: push.Channel{ID: channelID(r)}})
	if p != nil {
		return p
	}
	return replyJSON(w, http.StatusOK, channels[0])
}

// deleteChannel handles DELETE /v1/apps/{app}/channels/{id}.
func (s *server) deleteChannel(w *response, r *http.Request) *problem {
	if _, p := s.manage(w, r, push.ChannelCall{Action: push.DeleteChannel, Channel: push.Channel{ID: channelID(r)}}); p != nil {
		return p
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// channelID returns the last part of the path. It is base64, in which a slash is escaped as %2F.
func channelID(r *http.Request) string {
	id, err := url.PathUnescape(chi.URLParam(r, "id"))
	if err != nil {
		return ""
	}
	return id
}

// readStorage reads the storage policy of a new channel from the body.
func (s *server) readStorage(w *response, r *http.Request) (push.Storage, *problem) {
	var in struct {
		Storage push.Storage `json:"storage"`
	}
	if p := s.decodeBody(w, r, &in, `{"storage":"latest"}`); p != nil {
		return "", p
	}
	if in.Storage == "" {
		return "", invalid("storage", in.Storage.UnmarshalText(nil).Error())
	}
	return in.Storage, nil
}

// manage executes a call in the environment that the query parameter selects.
func (s *server) manage(w *response, r *http.Request, call push.ChannelCall) ([]push.Channel, *problem) {
	call.App = w.app
	if named := r.URL.Query().Get("environment"); named != "" {
		if err := call.Environment.UnmarshalText([]byte(named)); err != nil {
			return nil, invalid("environment", err.Error())
		}
	}
	if s.channels == nil {
		return nil, invalid("app", "must have channels; no app of this gateway has any")
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.SendTimeout)
	defer cancel()
	channels, receipt := s.channels.Manage(ctx, call)
	return channels, channelProblem(&receipt, call.Action)
}

// channelProblem returns why a channel call failed, or nil if it succeeded.
func channelProblem(r *push.Receipt, act push.ChannelAction) *problem {
	switch {
	case r.Verdict == push.Accepted:
		return nil
	case r.Verdict == push.Unregistered:
		return &problem{kind: notFound, field: "id", detail: "id: " + r.Reason + ": the app has no such channel in this environment"}
	case r.Verdict == push.Refused && len(r.Attempts) > 0:
		return withReceipt(r, problem{kind: refusedByProvider, detail: cmp.Or(r.Detail, "Apple does not accept this request")})
	case r.Verdict == push.Unknown && act == push.CreateChannel:
		return withReceipt(r, problem{kind: unknown, detail: "list the channels before you create it again: it may exist"})
	case r.Verdict == push.Unknown:
		return withReceipt(r, problem{kind: unknown, detail: "it is safe to repeat the request"})
	}
	return problemFor(r)
}

// replyJSON writes a response with v as JSON.
func replyJSON(w *response, status int, v any) *problem {
	body, err := json.Marshal(v)
	if err != nil {
		return &problem{kind: internal}
	}
	reply{status: status, contentType: jsonType, body: append(body, '\n')}.write(w)
	return nil
}
