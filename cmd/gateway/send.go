// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/sluice-push/sluice/push"
)

type send struct {
	URL string `name:"url" env:"GATEWAY_URL" default:"http://127.0.0.1:8080" help:"The gateway."`
	Key string `env:"GATEWAY_KEY" required:"" help:"API key with the scope send. Other users of this machine can see it among the flags: better set the variable."`
	App string `required:"" help:"App to send for."`

	Platform  string `required:"" enum:"apns,fcm" help:"apns or fcm."`
	Token     string `xor:"target" required:"" help:"Device token."`
	Topic     string `xor:"target" required:"" help:"FCM topic."`
	Condition string `xor:"target" required:"" help:"FCM condition over topics."`

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

	Timeout time.Duration `default:"60s" help:"How long to wait for the verdict."`
}

// Help shows an example.
func (send) Help() string {
	return `Example, with the key that gateway dev printed:

    export GATEWAY_KEY=slk_...
    gateway send --app demo --platform apns --token ` + exampleToken + ` --title Hi

Prints the receipt. Exits with 0 if the provider took the notification, with 1 if not.`
}

// Run sends the notification and prints its receipt.
func (s send) Run(p process) error {
	request, err := s.request(p)
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
	return report(p, answer.StatusCode, text)
}

func (s send) request(p process) (*http.Request, error) {
	base, err := url.Parse(s.URL)
	if err != nil || base.Host == "" {
		return nil, wrong{fmt.Errorf("send: --url %q: must be a URL such as http://127.0.0.1:8080", s.URL)}
	}
	body, err := json.Marshal(s.notification())
	if err != nil {
		return nil, err
	}
	target := base.JoinPath("v1/apps", url.PathEscape(s.App), "notifications")
	request, err := http.NewRequestWithContext(p, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, wrong{err}
	}
	request.Header.Set("Authorization", "Bearer "+s.Key)
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}

func (s send) notification() *push.Notification {
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

// report prints a receipt, or the problem in place of one, and fails unless the notification was accepted.
func report(p process, status int, text []byte) error {
	var pretty bytes.Buffer
	if json.Indent(&pretty, text, "", "  ") != nil {
		return fmt.Errorf("send: an answer that is not JSON, with HTTP status %d: is this a gateway?", status)
	}
	say(p.stdout, "%s\n", bytes.TrimSpace(pretty.Bytes()))
	var receipt struct {
		Status push.Status `json:"status"`
	}
	if status == http.StatusOK && json.Unmarshal(text, &receipt) == nil && receipt.Status == push.StatusAccepted {
		return nil
	}
	return errSaid
}
