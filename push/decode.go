// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"fmt"
	"time"
)

// receiptJSON is the JSON form of a receipt.
type receiptJSON struct {
	ID          string        `json:"id"`
	Index       *int          `json:"index"`
	TargetIndex *int          `json:"target_index"`
	Status      Status        `json:"status"`
	Reason      string        `json:"reason"`
	Field       string        `json:"field"`
	Detail      string        `json:"detail"`
	ProviderID  string        `json:"provider_id"`
	RetryAfter  float64       `json:"retry_after"`
	ForgetToken bool          `json:"forget_token"`
	DeadSince   time.Time     `json:"dead_since"`
	Replaced    *Target       `json:"replaced"`
	DryRun      *DryRun       `json:"dry_run"`
	Warnings    []Warning     `json:"warnings"`
	Attempts    []attemptJSON `json:"attempts"`
}

type attemptJSON struct {
	Endpoint    string    `json:"endpoint"`
	Environment string    `json:"environment"`
	Status      string    `json:"status"`
	Reason      string    `json:"reason"`
	HTTP        int       `json:"http"`
	At          time.Time `json:"at"`
	MS          float64   `json:"ms"`
}

// UnmarshalJSON reads what MarshalJSON writes. JSON omits an outcome's scope and an attempt's
// retry_after, so these are lost. Status unavailable is read as Unsent if there was no attempt, and
// as Unavailable otherwise. Unknown members are ignored, so that an older reader can read a newer
// gateway's receipts.
func (r *Receipt) UnmarshalJSON(text []byte) error {
	var w receiptJSON
	if err := json.Unmarshal(text, &w); err != nil {
		return err
	}
	state, verdict, err := w.Status.parse(len(w.Attempts) > 0)
	if err != nil {
		return err
	}
	*r = Receipt{ID: w.ID, Index: w.Index, TargetIndex: w.TargetIndex, State: state, Replaced: w.Replaced, DryRun: w.DryRun, Warnings: w.Warnings, Outcome: Outcome{
		Verdict: verdict, Reason: w.Reason, Field: w.Field, Detail: w.Detail, ProviderID: w.ProviderID,
		RetryAfter: time.Duration(w.RetryAfter * float64(time.Second)), ForgetToken: w.ForgetToken, DeadSince: w.DeadSince,
	}}
	for _, a := range w.Attempts {
		verdict, err := parseVerdict(a.Status)
		if err != nil {
			return err
		}
		r.Attempts = append(r.Attempts, Attempt{
			Endpoint: a.Endpoint, Environment: Environment(a.Environment), Started: a.At, Took: time.Duration(a.MS * float64(time.Millisecond)),
			Outcome: Outcome{Verdict: verdict, Reason: a.Reason, HTTP: a.HTTP},
		})
	}
	return nil
}

// parse returns the state of a notification without a verdict, or else the verdict.
func (s Status) parse(attempted bool) (state Status, v Verdict, err error) {
	switch s {
	case StatusQueued, StatusScheduled, StatusSending, StatusCancelled:
		return s, Unsent, nil
	case StatusUnavailable:
		if !attempted {
			return "", Unsent, nil
		}
	}
	v, err = parseVerdict(string(s))
	return "", v, err
}

func parseVerdict(text string) (Verdict, error) {
	for v, name := range verdictNames {
		if text == name {
			return Verdict(v), nil
		}
	}
	return 0, fmt.Errorf("push: unknown verdict %q", text)
}
