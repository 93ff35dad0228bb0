// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"github.com/sluice-push/sluice/mockprovider/apns"
	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/ledger"
	"github.com/sluice-push/sluice/mockprovider/script"
	"github.com/sluice-push/sluice/mockprovider/webpush"
)

// Names of the services in Fault.Service, Entry.Service and Query.Service.
const (
	APNs       = script.APNs
	APNsManage = script.APNsManage // APNs' channel management
	FCM        = script.FCM
	OAuth      = script.OAuth
	WebPush    = script.WebPush
)

// The types of Config and Script.
type (
	Streams    = h2.Streams
	Credential = apns.Credential
	Script     = script.Script
	Fault      = script.Fault
	GoAway     = script.GoAway
	Reset      = script.Reset
	Stall      = script.Stall
	Quota      = script.Quota
)

// The environments of a Credential.
const (
	Production = apns.Production
	Sandbox    = apns.Sandbox
)

// ParseScript reads a script from YAML or JSON. Its error names the line and key of every mistake.
func ParseScript(text []byte) (Script, error) { return script.Parse(text) }

// DocumentedQuotas returns the limits that Google publishes for FCM, as faults.
func DocumentedQuotas() []Fault { return script.DocumentedQuotas() }

// The types of the Ledger.
type (
	Ledger  = ledger.Ledger
	Query   = ledger.Query
	Entry   = ledger.Entry
	Summary = ledger.Summary
)

// The types of Mock.Subscribe.
type (
	Flavour      = webpush.Flavour
	Subscription = webpush.Subscription
)

// The flavours of Web Push.
const (
	Google  = webpush.Google
	Mozilla = webpush.Mozilla
	Apple   = webpush.Apple
	Windows = webpush.Windows
)
