// SPDX-License-Identifier: Apache-2.0

package push

import "time"

// TopicAction is an operation on the FCM topics of a registration.
type TopicAction uint8

// The topic actions.
const (
	SubscribeTopic   TopicAction = iota // no effect if the registration is subscribed
	UnsubscribeTopic                    // no effect if the registration is not subscribed
	ListTopics                          // a page of the topics to which the registration is subscribed
)

// TopicCall is one operation on the FCM topics of one registration.
type TopicCall struct {
	App    string
	Action TopicAction
	// Registration is a token or an installation. It is secret: do not log it.
	Registration Target
	// Topic is the topic, without the /topics/ prefix; empty in a list.
	Topic string
	// PageSize is the maximum number of topics in a page of a list; 0 leaves it to FCM.
	PageSize int
	// PageToken is NextPageToken of the page before; empty means the first page.
	PageToken string
}

// TopicSubscription is a topic to which a registration is subscribed.
type TopicSubscription struct {
	Topic string `json:"topic"`
	// CreatedAt is when the registration was subscribed; zero if FCM does not tell.
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// TopicPage is a page of the topics of a registration.
type TopicPage struct {
	Topics []TopicSubscription `json:"topics"`
	// NextPageToken gets the next page; empty on the last one.
	NextPageToken string `json:"next_page_token,omitempty"`
}
