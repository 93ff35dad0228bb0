// SPDX-License-Identifier: Apache-2.0

package push

// Channel is an APNs broadcast channel of an app. Every device that is subscribed to it receives
// what is sent to it.
type Channel struct {
	// ID is Apple's identifier of the channel, in base64. Pass it on unchanged.
	ID string `json:"id"`
	// Storage is the channel's storage policy; empty in a list, for which APNs does not report it.
	Storage Storage `json:"storage,omitempty"`
}

// Storage says which messages APNs stores for devices that are offline. It cannot be changed after
// the channel is created.
type Storage string

// The storage policies. APNs calls them message-storage-policy 0 and 1.
const (
	StoreNone   Storage = "none"   // nothing: allows a higher send rate, requires a TTL of 0
	StoreLatest Storage = "latest" // the most recent message, until its TTL expires
)

// UnmarshalText accepts none and latest.
func (s *Storage) UnmarshalText(text []byte) error {
	return unmarshalEnum(s, text, StoreNone, StoreLatest)
}

// ChannelAction is an operation on an app's channels.
type ChannelAction uint8

// The channel actions.
const (
	ListChannels  ChannelAction = iota // list all channels of the app
	ReadChannel                        // the channel with ID
	CreateChannel                      // a new channel with Storage
	DeleteChannel                      // the channel with ID
)

// ChannelCall is one operation on an app's channels in one environment.
type ChannelCall struct {
	App         string
	Environment Environment // empty means the app's default
	Action      ChannelAction
	Channel     // the channel that the action is about
}
