// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-push/sluice/push"
)

// maxTargets is how many targets one notification can have.
const maxTargets = 1000

// targetLists are the members for a notification with several targets. A list that is absent is nil.
type targetLists struct {
	Tokens        []string            `json:"tokens"`
	Installations []string            `json:"installations"`
	Subscriptions []push.Subscription `json:"subscriptions"`
}

// field returns the name of the list that is present, or "" if there is none.
func (l *targetLists) field() string {
	switch {
	case l.Tokens != nil:
		return "tokens"
	case l.Installations != nil:
		return "installations"
	case l.Subscriptions != nil:
		return "subscriptions"
	default:
		return ""
	}
}

// check finds a list with too few or too many entries.
func (l *targetLists) check() *problem {
	if n := len(l.Tokens) + len(l.Installations) + len(l.Subscriptions); n == 0 || n > maxTargets {
		return invalid(l.field(), "must have 1 to 1,000 entries")
	}
	return nil
}

// targets returns the entries of the list.
func (l *targetLists) targets() []push.Target {
	all := make([]push.Target, 0, len(l.Tokens)+len(l.Installations)+len(l.Subscriptions))
	for _, token := range l.Tokens {
		all = append(all, push.Target{Token: token})
	}
	for _, id := range l.Installations {
		all = append(all, push.Target{Installation: id})
	}
	for i := range l.Subscriptions {
		all = append(all, push.Target{Subscription: &l.Subscriptions[i]})
	}
	return all
}

// entry is the place of a target in a list, such as tokens[17]. The zero value is that of a target
// that is not in a list.
type entry struct {
	list  string
	index int
}

func (e entry) String() string { return fmt.Sprintf("%s[%d]", e.list, e.index) }

// rename replaces the name of a single target at the start of text with that of the entry. A provider
// reports token or subscription.endpoint where the client sent a list.
func (e entry) rename(text string) string {
	if e.list == "" {
		return text
	}
	rest, found := strings.CutPrefix(text, strings.TrimSuffix(e.list, "s"))
	if !found || rest != "" && rest[0] != '.' && rest[0] != ':' {
		return text
	}
	return e.String() + rest
}

// expand returns a submission for each target of n, in order. They share the content of n, which must
// have its app and time. A target to which nothing can be sent has a result instead of a notification.
// lists is nil if n has one target. A dry run does not use the key, so that the notification can be sent
// with it afterwards.
func expand(n *push.Notification, lists *targetLists, key string, body []byte) []*submission {
	if n.DryRun {
		key = ""
	}
	if lists == nil {
		n.ID = ids.next(n.AcceptedAt)
		return []*submission{newSubmission(n, key, body)}
	}
	targets := lists.targets()
	subs, copies := make([]*submission, len(targets)), make([]push.Notification, len(targets))
	seen := make(map[string]entry, len(targets))
	var head *submission
	for i, target := range targets {
		each, at := &copies[i], entry{lists.field(), i}
		*each = *n
		each.ID, each.Target = ids.next(n.AcceptedAt), target
		first, duplicate := seen[each.Key()]
		switch {
		case each.Kind() == push.NoTarget:
			subs[i] = rejected(invalid(at.String(), "must not be empty"))
		case duplicate:
			subs[i] = rejected(invalid(at.String(), "must differ from "+first.String()+", to which it is sent"))
		case head == nil:
			head = newSubmission(each, key, body)
			subs[i] = head
		default:
			subs[i] = head.derive(each, i)
		}
		subs[i].entry, subs[i].Content = at, n
		if subs[i].Notification != nil {
			seen[each.Key()] = at
		}
	}
	return subs
}

// derive returns the submission of another target of the same request. Its key, if there is one, is
// derived from that of the request. It cannot be equal to a key of a client, which has no control
// characters.
func (sub *submission) derive(n *push.Notification, target int) *submission {
	if sub.key == "" {
		return newSubmission(n, "", nil)
	}
	derived := newSubmission(n, sub.key+"\x00"+strconv.Itoa(target), nil)
	n.BodyHash = sub.BodyHash
	return derived
}

// sendEach sends a notification to several targets, and responds with one receipt for each, in their
// order.
func (s *server) sendEach(w *response, r *http.Request, subs []*submission, async bool) *problem {
	if p := s.checkKey(r.Context(), subs); p != nil {
		return p
	}
	b := s.newBatch(w, r, async)
	defer b.cancelAttempts()
	if wait := preferredWait(r); wait > 0 && !async {
		b.timeout = min(b.timeout, wait)
	}
	defer context.AfterFunc(r.Context(), b.cancel)()
	b.add(notInBatch, subs)
	b.flush()
	b.wait()
	if r.Context().Err() != nil {
		return nil
	}
	replayed, body := true, []byte(`{"receipts":[`)
	for _, sub := range subs {
		j := job{notInBatch, sub}
		body = append(j.appendReceipt(body), ',')
		replayed = replayed && sub.replayed
	}
	body = append(body[:len(body)-1], "]}\n"...)
	out := reply{status: http.StatusOK, contentType: jsonType, replayed: replayed, asyncApplied: async, body: body}
	if async {
		out.status = http.StatusAccepted
	}
	out.write(w)
	return nil
}

// checkKey returns the problem of a request with several targets whose key cannot be used, for example
// because it was used with another body. The key of the request is that of its first target.
func (s *server) checkKey(ctx context.Context, subs []*submission) *problem {
	i := slices.IndexFunc(subs, func(sub *submission) bool { return sub.Notification != nil })
	if i < 0 || subs[i].key == "" {
		return nil
	}
	first := subs[i]
	switch {
	case s.claimWithin(ctx, first):
		first.releaseClaim(nil) // it is claimed again when it is sent
	case first.problem == nil:
		first.Notification = nil // it has its result
	}
	return first.problem
}
