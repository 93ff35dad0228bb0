// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/internal/strictjson"
)

// unmarshal decodes as the API does.
func unmarshal(text []byte, v any) error {
	if err := json.Unmarshal(text, v, strictjson.Options()); err != nil {
		return strictjson.Explain(err, text)
	}
	return nil
}
