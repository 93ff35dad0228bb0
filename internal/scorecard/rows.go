// SPDX-License-Identifier: Apache-2.0

package main

// rows are all of the scorecard, in its order.
var rows = []row{
	{id: "S01", fault: "one of eight falls silent", check: silentEndpoint},
	{id: "S01b", fault: "the same with five requests a second each, and with blocked writes", check: silentAtLowRate},
	{id: "S02", fault: "one of eight answers 500 and 503", check: erroringEndpoint},
	{id: "S03", fault: "one of eight fails three of ten at random", check: flakyEndpoint},
	{id: "S03b", fault: "one of eight is silent for one token in twenty", check: silentForSomeTokens},
	{id: "S04", fault: "one of eight takes a second longer", check: slowEndpoint},
	{id: "S05", fault: "two of eight addresses are dead: no SYN answered, refused, no TLS", check: deadAddresses},
	{id: "S05b", fault: "one of eight is dead for five minutes, and there is no spare", check: deadEndpointNoSpare},
	{id: "S06", fault: "GOAWAY on all connections with 200 and 1,000 in flight, half of them cut off", check: goAway},
	{id: "S07", fault: "TCP reset of all connections, half of what is in flight was processed", check: tcpReset},
	{id: "S08", fault: "APNs' stream limits: one until the first answer, and again after each refusal", check: streamLimits},
	{id: "S09", fault: "a provider answers 503 only, for a minute", check: providerOutage},
	{id: "S09b", fault: "the same for callers who ask three gateways", check: providerOutageForClients},
	{id: "S10", fault: "429 with Retry-After while three times the quota is offered", check: overQuota},
	{id: "S10b", fault: "a campaign at three times the quota, critical ones among it", check: campaign},
	{id: "S11", fault: "429 without Retry-After; of one device; of the provider token", check: throttledWithoutRetryAfter},
	{id: "S12", fault: "the token endpoint is down for 25 minutes", check: tokenEndpointDown},
	{id: "S13", fault: "the clock is wrong by an hour, or steps under load", check: clockSkew},
	{id: "S14", fault: "a client certificate is changed under load, and then an expired one is offered", check: certificateRotation},
	{id: "S15", fault: "DNS answers SERVFAIL, nothing, private addresses", check: badDNSAnswers, isolated: true},
	{id: "S16", fault: "a hundred gateways start at once", check: fleetStart},
	{id: "S17", fault: "kill -9 with 100,000 queued", check: killRecovery},
	{id: "S18", fault: "the queue's disk loses, tears, flips and fills up", check: diskFaults},
	{id: "S19", fault: "one token in five is dead", check: expiredTokens},
	{id: "S20", fault: "a batch with one malformed, one huge and one dead", check: mixedBatch},
	{id: "S21", fault: "a zone of three is lost, and comes back", check: zoneLoss, isolated: true, isolationOptional: true},
	{id: "S21b", fault: "zones behind long lines that lose one packet in a hundred, and then all that one zone says", check: lossyLinks, isolated: true},
	{id: "S22", fault: "three times the capacity is offered", check: overload},
	{id: "S23", fault: "ten thousand slow callers, bombs and endless headers"},
	{id: "S24", fault: "SIGTERM with 10,000 in flight; two gateways of a cluster replaced under load", check: gracefulShutdown},
	{id: "S25", fault: "a day of all faults at random"},
}
