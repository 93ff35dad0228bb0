// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// devMock controls the mock providers of dev for the console. It keeps the faults of --fault.
type devMock struct {
	ctx      context.Context // of dev
	mock     *mockprovider.Mock
	url, key string // of the API

	mu      sync.Mutex
	faults  []string           // descriptions of those that the console has added
	stop    context.CancelFunc // ends the traffic; nil without
	traffic int                // identifies the traffic that stop ends
}

var _ console.Mock = (*devMock)(nil)

// Services implements console.Mock.
func (d *devMock) Services() []console.MockService {
	return []console.MockService{
		{Name: mockprovider.APNs, Endpoints: addrTexts(d.mock.APNsAddrs())}, {Name: mockprovider.FCM, Endpoints: addrTexts(d.mock.FCMAddrs())},
	}
}

func addrTexts[T fmt.Stringer](addrs []T) (texts []string) {
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return texts
}

// Faults implements console.Mock.
func (d *devMock) Faults() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.faults)
}

// Apply implements console.Mock. A new fault comes before the others, so that it has an effect.
func (d *devMock) Apply(kind, service string, endpoint int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kind == "recover" {
		d.faults = nil
		return d.mock.SetScript(mockprovider.Script{})
	}
	if service != mockprovider.APNs && service != mockprovider.FCM {
		return fmt.Errorf("service: must be %s or %s", mockprovider.APNs, mockprovider.FCM)
	}
	f := mockprovider.Fault{Service: service}
	where := service + ", all endpoints"
	if endpoint >= 0 {
		f.Endpoint, where = fmt.Sprint(endpoint), fmt.Sprintf("%s, endpoint %d", service, endpoint)
	}
	switch kind {
	case "break":
		f.Status = 500
	case "slow":
		f.Delay, f.P99 = 900*time.Millisecond, 1500*time.Millisecond
	case "hang":
		f.Stall = &mockprovider.Stall{}
	case "goaway":
		f.GoAway = &mockprovider.GoAway{}
	case "refuse":
		f.TokenShare = 0.33
		f.Status = map[string]int{mockprovider.APNs: 410, mockprovider.FCM: 404}[service]
	default:
		return fmt.Errorf("fault: must be break, slow, hang, goaway, refuse or recover")
	}
	script := d.mock.Script()
	script.Faults = append([]mockprovider.Fault{f}, script.Faults...)
	if err := d.mock.SetScript(script); err != nil {
		return err
	}
	d.faults = append(d.faults, kind+": "+where)
	return nil
}

// Test traffic of dev.
const (
	trafficRate     = 50 // notifications a second
	trafficDuration = 2 * time.Minute
)

// Sending implements console.Mock.
func (d *devMock) Sending() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stop != nil
}

// Traffic implements console.Mock.
func (d *devMock) Traffic(start bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop != nil {
		d.stop()
		d.stop = nil
	}
	if !start {
		return
	}
	d.traffic++
	ctx, stop := context.WithTimeout(d.ctx, trafficDuration)
	d.stop = stop
	go d.send(ctx, d.traffic)
}

// send sends notifications to random devices until ctx ends.
func (d *devMock) send(ctx context.Context, id int) {
	ticker := time.NewTicker(time.Second / trafficRate)
	defer ticker.Stop()
	var group sync.WaitGroup
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
			group.Go(func() { d.sendOne(ctx) })
		case <-ctx.Done():
		}
	}
	group.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.traffic == id && d.stop != nil {
		d.stop()
		d.stop = nil
	}
}

// sendOne sends a notification through the API, so that the history has it.
func (d *devMock) sendOne(ctx context.Context) {
	platform, token := push.APNs, fmt.Sprintf("%064x", rand.Uint64()|1<<60)
	if rand.IntN(3) == 0 {
		platform, token = push.FCM, "dev:"+strings.Repeat(fmt.Sprintf("%016x", rand.Uint64()), 8)
	}
	body := fmt.Sprintf(`{"platform":%q,"token":%q,"title":"Test traffic","tags":["traffic"]}`, platform, token)
	r, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, d.url+"/v1/apps/"+demoApp+"/notifications", strings.NewReader(body))
	if err != nil {
		return // impossible: the URL is that of the gateway
	}
	r.Header.Set("Authorization", "Bearer "+d.key)
	r.Header.Set("Content-Type", "application/json")
	if response, err := http.DefaultClient.Do(r); err == nil { // the live page shows failures
		_, _ = io.Copy(io.Discard, response.Body) // so that the connection is used again
		_ = response.Body.Close()
	}
}
