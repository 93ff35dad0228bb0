// SPDX-License-Identifier: Apache-2.0

package push

// Channel is an APNs broadcast channel of an app's: all who follow it receive what is sent to it.
type Channel struct {
	// ID is Apple's name for it, in base64, to be kept as it is.
	ID string `json:"id"`
	// Storage is what it keeps; empty where nobody was asked.
	Storage Storage `json:"storage,omitempty"`
}

// Storage says what a channel keeps for those who cannot be reached at the moment. It is chosen for good.
type Storage string

// The storages; Apple calls them message-storage-policy 0 and 1.
const (
	StoreNone   Storage = "none"   // nothing: more may be sent, and only with a TTL of 0
	StoreLatest Storage = "latest" // the most recent message, until its TTL is over
)

// UnmarshalText refuses every word but none and latest.
func (s *Storage) UnmarshalText(text []byte) error {
	return unmarshalEnum(s, text, StoreNone, StoreLatest)
}

// ChannelAction is what is to be done with channels.
type ChannelAction uint8

// The acts.
const (
	ListChannels  ChannelAction = iota // all of the app's
	ReadChannel                        // the one with ID
	CreateChannel                      // one with Storage
	DeleteChannel                      // the one with ID
)

// ChannelCall asks for one act on an app's channels in one environment.
type ChannelCall struct {
	App         string
	Environment Environment // empty means the app's own
	Action      ChannelAction
	Channel     // what the act is about
}
