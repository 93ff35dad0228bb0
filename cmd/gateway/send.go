// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/push"
)

type sendCmd struct {
	target
	Key string `env:"SLUICE_KEY,GATEWAY_KEY" required:"" help:"API key with the scope send. Prefer the environment variable: other users of the machine can see flags."`
	App string `required:"" help:"App to send for."`

	Platform     string   `enum:",apns,fcm" default:"" help:"apns or fcm."`
	Token        []string `xor:"target" required:"" sep:"none" help:"Device token. Repeatable."`
	Topic        string   `xor:"target" required:"" help:"FCM topic."`
	Condition    string   `xor:"target" required:"" help:"FCM condition over topics."`
	Installation string   `xor:"target" required:"" help:"Firebase installation ID."`

	File string `xor:"target" required:"" help:"Send the notifications of a file, one JSON object per line. The gateway must have a queue."`
	As   string `placeholder:"NAME" help:"With --file: name of the run. Within a day, each line is sent at most once per run."`

	Title       string            `help:"Title to show."`
	Subtitle    string            `help:"Subtitle to show (APNs)."`
	Body        string            `help:"Text to show."`
	Image       string            `help:"URL of an image to show."`
	Sound       string            `help:"Sound to play. \"default\" is the default sound of the device."`
	Badge       *int              `help:"Number on the app icon. 0 clears it."`
	Data        map[string]string `help:"Data for the app, as KEY=VALUE. Repeatable."`
	Tag         []string          `sep:"none" help:"Label by which notifications can be found and counted. Repeatable."`
	Priority    string            `enum:",high,normal,low" default:"" help:"high, normal or low."`
	CollapseKey string            `help:"Replaces an earlier notification with the same key."`
	TTL         *time.Duration    `name:"ttl" help:"How long the provider may try to deliver, such as 1h."`
	DryRun      bool              `help:"Check the notification and the credential without sending. FCM validates it too."`
	SendAt      string            `placeholder:"TIME" help:"When to send, such as +10m or 2026-12-31T23:59:59Z. The gateway must have a queue."`

	Timeout time.Duration `default:"60s" help:"How long to wait for the receipt, or with --file for the next line to be accepted."`

	client *http.Client
	base   *url.URL
}

// Help returns the description and examples.
func (sendCmd) Help() string {
	return `Example with the key that gateway dev printed:

    export SLUICE_KEY=slk_...
    gateway send --app demo --platform apns --token ` + exampleToken + ` --title Hi

Prints the receipt. Exits with 0 if the provider accepted the notification and with 1 otherwise. With
--send-at, exits with 0 once the notification is stored in the gateway's queue. With several --token flags,
prints the receipts in their order, and exits with 0 if all of them are so.

With --dry-run, nothing is delivered. The receipt says what was checked.

To send many notifications, write one JSON object per line to a file, such as {"platform":"apns","token":"...","title":"Hi"}:

    gateway send --app demo --file campaign.ndjson

Prints the receipts of refused lines and the first ten with warnings, with their line numbers, and the
progress on standard error. A line is accepted once it is in the gateway's queue on disk. Exits with 0 if
every line was accepted. After an interruption, run the same command to continue. No line is sent twice.`
}

// Run sends the notification and prints its receipt.
func (s sendCmd) Run(p process) (err error) {
	if s.client, s.base, err = s.connect(); err != nil {
		return err
	}
	if s.File != "" {
		if !reflect.DeepEqual(s.notification(), notification{Notification: new(push.Notification)}) {
			return usageError{errors.New("send: --file cannot be combined with flags for a notification")}
		}
		return s.runFile(p)
	}
	if s.Platform == "" {
		return usageError{errors.New("send: missing flags: --platform=apns or --platform=fcm")}
	}
	request, err := s.singleRequest(p)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			return fmt.Errorf("send: no response from %s: %w", s.URL, err)
		}
		return fmt.Errorf("send: no response from %s; the notification may have been sent: %w", s.URL, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("send: incomplete response; the notification may have been sent: %w", err)
	}
	return printReceipt(p, response, text)
}

func (s sendCmd) singleRequest(p process) (*http.Request, error) {
	body, err := json.Marshal(s.notification())
	if err != nil {
		return nil, err
	}
	request, err := s.newRequest(p, bytes.NewReader(body), "application/json")
	if err == nil && s.SendAt != "" && !s.DryRun {
		request.Header.Set("Prefer", "respond-async")
	}
	return request, err
}

// batchRequest returns an asynchronous batch request.
func (s sendCmd) batchRequest(ctx context.Context, body io.Reader) (*http.Request, error) {
	request, err := s.newRequest(ctx, body, "application/x-ndjson", "batch")
	if err == nil {
		request.Header.Set("Prefer", "respond-async")
	}
	return request, err
}

func (s sendCmd) newRequest(ctx context.Context, body io.Reader, contentType string, path ...string) (*http.Request, error) {
	target := s.base.JoinPath("v1/apps", url.PathEscape(s.App), "notifications").JoinPath(path...)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
	if err != nil {
		return nil, usageError{err}
	}
	request.Header.Set("Authorization", "Bearer "+s.Key)
	request.Header.Set("Content-Type", contentType)
	return request, nil
}

// notification is the body of a request. The gateway parses its send_at, which can be relative.
type notification struct {
	*push.Notification
	Tokens []string `json:"tokens,omitempty"`
	SendAt string   `json:"send_at,omitempty"`
}

func (s sendCmd) notification() notification {
	n := &push.Notification{
		Platform: push.Platform(s.Platform),
		Target:   push.Target{Topic: s.Topic, Condition: s.Condition, Installation: s.Installation},
		Title:    s.Title, Subtitle: s.Subtitle, Body: s.Body, Image: s.Image, Sound: s.Sound, Badge: s.Badge, Data: s.Data, Tags: s.Tag,
		Priority: push.Priority(s.Priority), CollapseKey: s.CollapseKey, DryRun: s.DryRun,
	}
	if s.TTL != nil {
		ttl := push.Duration(*s.TTL)
		n.TTL = &ttl
	}
	if len(s.Token) == 1 {
		n.Token = s.Token[0]
		return notification{n, nil, s.SendAt}
	}
	return notification{n, s.Token, s.SendAt}
}

// printReceipt prints a receipt, several, or a problem. It returns an error unless the notification was
// accepted by the provider or stored in the queue for each target.
func printReceipt(p process, response *http.Response, text []byte) error {
	var receipts []push.Receipt
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusAccepted {
		receipts = parseReceipts(text)
	}
	var pretty bytes.Buffer
	if receipts == nil && !isProblem(text) || json.Indent(&pretty, text, "", "  ") != nil {
		result := "the notification may have been sent"
		if response.StatusCode >= 300 && response.StatusCode < 500 && response.StatusCode != http.StatusRequestTimeout {
			result = "nothing was sent"
		}
		return fmt.Errorf("send: %w; %s", intermediaryError(response), result)
	}
	printf(p.stdout, "%s\n", bytes.TrimSpace(pretty.Bytes()))
	if receipts == nil {
		return errReported
	}
	for _, r := range receipts {
		switch r.Status() {
		case push.StatusAccepted, push.StatusQueued, push.StatusScheduled, push.StatusSending:
		default:
			return errReported
		}
	}
	return nil
}

// parseReceipts returns the receipts of a gateway in the body of a response, or nil.
func parseReceipts(text []byte) []push.Receipt {
	var list struct {
		Receipts []push.Receipt `json:"receipts"`
	}
	if json.Unmarshal(text, &list) == nil && list.Receipts != nil {
		return list.Receipts
	}
	var single push.Receipt
	if json.Unmarshal(text, &single) != nil {
		return nil
	}
	return []push.Receipt{single}
}

// isProblem reports whether the body of a response is a problem of a gateway.
func isProblem(text []byte) bool {
	var problem struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(text, &problem) == nil && strings.HasPrefix(problem.Type, api.ProblemBase)
}

// intermediaryError returns the error for a response that is not from a gateway.
func intermediaryError(response *http.Response) error {
	description := response.Status
	if to, err := response.Location(); err == nil {
		description += " to " + to.Scheme + "://" + to.Host
	}
	return fmt.Errorf("the response %s is not from a gateway, but from a proxy, firewall or other server: check --url and the network to the gateway", description)
}
