// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json"
	"fmt"
	"time"
)

// receiptJSON is a receipt as JSON has it.
type receiptJSON struct {
	ID          string        `json:"id"`
	Index       *int          `json:"index"`
	Status      Status        `json:"status"`
	Reason      string        `json:"reason"`
	Field       string        `json:"field"`
	Detail      string        `json:"detail"`
	ProviderID  string        `json:"provider_id"`
	RetryAfter  float64       `json:"retry_after"`
	ForgetToken bool          `json:"forget_token"`
	DeadSince   time.Time     `json:"dead_since"`
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

// UnmarshalJSON reads what MarshalJSON wrote. What JSON does not carry (an outcome's scope, an attempt's own
// retry_after) is lost; what was never sent reads as Unsent if it met no attempt and as Unavailable after one.
// Members that it does not know are passed over, so that an older reader understands a newer gateway.
func (r *Receipt) UnmarshalJSON(text []byte) error {
	var w receiptJSON
	if err := json.Unmarshal(text, &w); err != nil {
		return err
	}
	state, verdict, err := w.Status.parse(len(w.Attempts) > 0)
	if err != nil {
		return err
	}
	*r = Receipt{ID: w.ID, Index: w.Index, State: state, Outcome: Outcome{
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

// parse returns the state of one that has not come to a verdict, or the verdict.
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

func parseVerdict(word string) (Verdict, error) {
	for v, known := range verdictNames {
		if word == known {
			return Verdict(v), nil
		}
	}
	return 0, fmt.Errorf("push: %q is no verdict that this version knows", word)
}
