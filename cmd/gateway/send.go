// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"time"

	"github.com/sluice-push/sluice/push"
)

type sendCmd struct {
	URL string `name:"url" env:"GATEWAY_URL" default:"http://127.0.0.1:8080" help:"The gateway."`
	Key string `env:"SLUICE_KEY,GATEWAY_KEY" required:"" help:"API key with the scope send. Other users of this machine can see it among the flags: better set the variable."`
	App string `required:"" help:"App to send for."`

	Platform  string `enum:",apns,fcm" default:"" help:"apns or fcm."`
	Token     string `xor:"target" required:"" help:"Device token."`
	Topic     string `xor:"target" required:"" help:"FCM topic."`
	Condition string `xor:"target" required:"" help:"FCM condition over topics."`

	File string `xor:"target" required:"" help:"Send a file instead: a notification in JSON on each line, any number of them. The gateway needs a queue."`
	As   string `placeholder:"NAME" help:"With --file: the run's name. Within a day a line is sent once in each run, however often the file is."`

	Title       string            `help:"Title to show."`
	Subtitle    string            `help:"Subtitle to show (APNs)."`
	Body        string            `help:"Text to show."`
	Image       string            `help:"URL of a picture to show."`
	Sound       string            `help:"Sound to play; \"default\" is the device's own."`
	Badge       *int              `help:"Number on the app's icon; 0 clears it."`
	Data        map[string]string `help:"Data for the app, as KEY=VALUE; may be given several times."`
	Priority    string            `enum:",high,normal,low" default:"" help:"high, normal or low."`
	CollapseKey string            `help:"Replaces an earlier notification with the same key."`
	TTL         *time.Duration    `name:"ttl" help:"How long the provider may keep trying, such as 1h."`

	Timeout time.Duration `default:"60s" help:"How long to wait for the verdict; with --file, for the next line to be taken."`
}

// Help shows an example.
func (sendCmd) Help() string {
	return `Example, with the key that gateway dev printed:

    export SLUICE_KEY=slk_...
    gateway send --app demo --platform apns --token ` + exampleToken + ` --title Hi

Prints the receipt. Exits with 0 if the provider took the notification, with 1 if not.

A million of them, from a file with one JSON object a line such as {"platform":"apns","token":"...","title":"Hi"}:

    gateway send --app demo --file campaign.ndjson

Prints the receipts of refused lines, each with its number, and how far it is on standard error. A line is
done once it is safe on the gateway's disk. Exits with 0 if every line was taken. After a broken
connection or an interruption the same command goes on where it stopped: no line is sent twice.`
}

// Run sends the notification and prints its receipt.
func (s sendCmd) Run(p process) error {
	if s.File != "" {
		if !reflect.DeepEqual(s.notification(), new(push.Notification)) {
			return usageError{errors.New("send: --file stands alone: its lines say everything about the notifications")}
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
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("send: no answer from %s: %w", s.URL, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("send: the answer broke off, so the notification may have been sent: %w", err)
	}
	return printReceipt(p, answer.StatusCode, text)
}

func (s sendCmd) singleRequest(p process) (*http.Request, error) {
	body, err := json.Marshal(s.notification())
	if err != nil {
		return nil, err
	}
	return s.newRequest(p, bytes.NewReader(body), "application/json")
}

// batchRequest is the request for a file's lines, which nobody waits for.
func (s sendCmd) batchRequest(ctx context.Context, body io.Reader) (*http.Request, error) {
	request, err := s.newRequest(ctx, body, "application/x-ndjson", "batch")
	if err == nil {
		request.Header.Set("Prefer", "respond-async")
	}
	return request, err
}

func (s sendCmd) newRequest(ctx context.Context, body io.Reader, media string, below ...string) (*http.Request, error) {
	base, err := url.Parse(s.URL)
	if err != nil || base.Host == "" {
		return nil, usageError{fmt.Errorf("send: --url %q: must be a URL such as http://127.0.0.1:8080", s.URL)}
	}
	target := base.JoinPath("v1/apps", url.PathEscape(s.App), "notifications").JoinPath(below...)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
	if err != nil {
		return nil, usageError{err}
	}
	request.Header.Set("Authorization", "Bearer "+s.Key)
	request.Header.Set("Content-Type", media)
	return request, nil
}

func (s sendCmd) notification() *push.Notification {
	n := &push.Notification{
		Platform: push.Platform(s.Platform),
		Target:   push.Target{Token: s.Token, Topic: s.Topic, Condition: s.Condition},
		Title:    s.Title, Subtitle: s.Subtitle, Body: s.Body, Image: s.Image, Sound: s.Sound, Badge: s.Badge, Data: s.Data,
		Priority: push.Priority(s.Priority), CollapseKey: s.CollapseKey,
	}
	if s.TTL != nil {
		ttl := push.Duration(*s.TTL)
		n.TTL = &ttl
	}
	return n
}

// printReceipt prints a receipt, or the problem in place of one, and fails unless the notification was accepted.
func printReceipt(p process, status int, text []byte) error {
	var pretty bytes.Buffer
	if json.Indent(&pretty, text, "", "  ") != nil {
		return fmt.Errorf("send: an answer that is not JSON, with HTTP status %d: is this a gateway?", status)
	}
	printf(p.stdout, "%s\n", bytes.TrimSpace(pretty.Bytes()))
	var receipt struct {
		Status push.Status `json:"status"`
	}
	if status == http.StatusOK && json.Unmarshal(text, &receipt) == nil && receipt.Status == push.StatusAccepted {
		return nil
	}
	return errReported
}
