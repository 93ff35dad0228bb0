// SPDX-License-Identifier: Apache-2.0

package mockprovider

import "github.com/sluice-push/sluice/mockprovider/ledger"

// The types of the ledger that callers of Mock.Ledger name. See the ledger package.
type (
	Entry   = ledger.Entry
	Query   = ledger.Query
	Summary = ledger.Summary
)
