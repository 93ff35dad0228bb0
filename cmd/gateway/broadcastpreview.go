// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/client"
)

type previewBroadcastCmd struct {
	broadcastID
	Platform string `enum:",apns,fcm,webpush" default:"" help:"Only this platform: apns, fcm or webpush."`
	Variant  string `help:"Only this variant."`
	Language string `help:"Only this language, as it is written in the definition."`
	Recall   bool   `help:"Print the recall message in place of the message."`
}

// Help returns the description and examples.
func (previewBroadcastCmd) Help() string {
	return `Example:

    gateway broadcast preview --app demo ID --platform apns --language de

Prints the request to the provider, without the credential, and its payload with indentation. Variables have their defaults, or else their names as values, and the target is an example. The payload of Web Push is printed before its encryption. With --json, prints a list with the notification and the request of each message.`
}

// Run prints the previews that the flags select.
func (s previewBroadcastCmd) Run(p process, c *broadcastCmd) error {
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		previews, err := b.Preview(ctx, s.ID)
		if err != nil {
			return err
		}
		found, err := s.choose(previews)
		if err != nil {
			return err
		}
		if c.JSON {
			all := []json.RawMessage{}
			for _, preview := range found {
				all = append(all, preview.JSON)
			}
			c.printJSON(p, all)
			return nil
		}
		for i, preview := range found {
			if i > 0 {
				printf(p.stdout, "\n")
			}
			s.print(p, &preview)
		}
		return nil
	})
}

// choose returns the previews that the flags select, or a usageError that says what there is.
func (s previewBroadcastCmd) choose(previews *client.BroadcastPreviews) (found []client.BroadcastPreview, err error) {
	all := previews.Message
	if s.Recall {
		if all = previews.Recall; len(all) == 0 {
			return nil, usageError{fmt.Errorf("broadcast: --recall: the broadcast has no recall message")}
		}
	}
	platforms, variants, languages := []string{}, []string{}, []string{}
	for _, preview := range all {
		if preview.Request == nil && preview.Problem == "" {
			continue
		}
		platforms, variants, languages = append(platforms, string(preview.Platform)), append(variants, preview.Variant), append(languages, preview.Language)
		if matches(s.Platform, string(preview.Platform)) && matches(s.Variant, preview.Variant) && matches(s.Language, preview.Language) {
			found = append(found, preview)
		}
	}
	for _, part := range []struct {
		flag, value string
		known       []string
	}{{"platform", s.Platform, platforms}, {"variant", s.Variant, variants}, {"language", s.Language, languages}} {
		if !slices.Contains(part.known, part.value) && part.value != "" {
			slices.Sort(part.known)
			known := slices.DeleteFunc(slices.Compact(part.known), func(name string) bool { return name == "" })
			return nil, usageError{fmt.Errorf("broadcast: --%s must be one of those of the broadcast: %s", part.flag, cmp.Or(strings.Join(known, ", "), "it has none"))}
		}
	}
	return found, nil
}

// matches reports whether a value is the selected one, or none is selected.
func matches(selected, value string) bool { return selected == "" || selected == value }

// print prints a preview.
func (s previewBroadcastCmd) print(p process, preview *client.BroadcastPreview) {
	title := string(preview.Platform)
	if preview.Variant != "" {
		title += ", variant " + preview.Variant
	}
	if preview.Language != "" {
		title += ", language " + preview.Language
	}
	printf(p.stdout, "== %s\n", oneLine(title))
	if len(preview.Missing) > 0 {
		printf(p.stdout, "variables without a default: %s\n", strings.Join(preview.Missing, ", "))
	}
	for _, w := range preview.Warnings {
		printf(p.stdout, "warning: %s: %s\n", oneLine(w.Field), oneLine(w.Detail))
	}
	if preview.Problem != "" {
		printf(p.stdout, "problem: %s\n", oneLine(preview.Problem))
	}
	r := preview.Request
	if r == nil {
		return
	}
	printf(p.stdout, "%s %s\n", r.Method, oneLine(r.URL))
	for _, h := range r.Headers {
		printf(p.stdout, "%s: %s\n", oneLine(h.Name), oneLine(h.Value))
	}
	var body bytes.Buffer
	if json.Indent(&body, []byte(r.Payload), "", "  ") != nil { // that of Web Push can be any text
		body.WriteString(r.Payload)
	}
	printf(p.stdout, "\n%s\n%s bytes\n", body.String(), group(len(r.Payload)))
}
