// SPDX-License-Identifier: Apache-2.0

package scorecard

import "time"

// rows lists all rows in the order in which they run.
var rows = []row{
	{id: "S01", fault: "one of eight endpoints stops responding", check: silentEndpoint},
	{id: "S01b", fault: "S01 at five requests per second and endpoint, also with blocked writes", check: silentAtLowRate},
	{id: "S02", fault: "one of eight endpoints answers 500 and 503", check: erroringEndpoint},
	{id: "S03", fault: "one of eight endpoints fails 30 % of its requests", check: flakyEndpoint},
	{id: "S03b", fault: "one of eight endpoints does not respond for 5 % of the tokens", check: silentForSomeTokens},
	{id: "S03c", fault: "every endpoint fails 10 % of its requests", check: randomFailures},
	{id: "S04", fault: "one of eight endpoints is a second slower", check: slowEndpoint},
	{id: "S05", fault: "two of eight addresses in DNS are dead: SYN ignored, connection refused, no TLS", check: deadAddresses},
	{id: "S05b", fault: "one of eight endpoints is dead for five minutes, without a spare", check: deadEndpointNoSpare},
	{id: "S06", fault: "GOAWAY on all connections with 200 and 1,000 requests in flight, half of them not processed", check: goAway},
	{id: "S07", fault: "TCP reset of all connections, half of the requests in flight were processed", check: tcpReset},
	{id: "S08", fault: "APNs stream limits: one stream until the first accepted request and after each refusal", check: streamLimits},
	{id: "S09", fault: "a provider answers only 503 for a minute", check: providerOutage},
	{id: "S09b", fault: "S09 for callers with three gateways", check: providerOutageForClients},
	{id: "S10", fault: "three times the quota is offered, then 429 with Retry-After", check: overQuota},
	{id: "S10b", fault: "a bulk campaign at three times the quota, with critical notifications", check: campaign},
	{id: "S11", fault: "429 without Retry-After: project, device, provider token", check: throttledWithoutRetryAfter},
	{id: "S12", fault: "the token endpoint is down for 25 minutes", check: tokenEndpointDown},
	{id: "S13", fault: "the clock steps by an hour under load", check: clockSkew},
	{id: "S14", fault: "a client certificate is rotated under load, then replaced by an expired one", check: certificateRotation},
	{id: "S15", fault: "DNS answers SERVFAIL, no address, private addresses", check: badDNSAnswers, isolated: true},
	{id: "S16", fault: "a hundred gateways start at the same time", check: fleetStart},
	{id: "S17", fault: "kill -9 with 100,000 queued notifications", check: killRecovery, extra: killRecoveryTime},
	{id: "S18", fault: "disk faults of the queue: lost writes, torn write, flipped bit, full disk", check: diskFaults},
	{id: "S19", fault: "one notification in five is for an expired token", check: expiredTokens},
	{id: "S20", fault: "a batch with a malformed item, a huge item and an expired token", check: mixedBatch},
	{id: "S21", fault: "one of three zones is lost and returns", check: zoneLoss, isolated: true, isolationOptional: true},
	{id: "S21b", fault: "zones with 15 ms of delay and 1 % packet loss, then loss of all packets from one zone", check: lossyLinks, isolated: true},
	{id: "S22", fault: "three times the capacity is offered", check: overload},
	{id: "S23", fault: "ten thousand slow callers, decompression bombs and endless headers", check: slowCallers},
	{id: "S24", fault: "SIGTERM with 10,000 notifications in flight; rolling restart of two gateways under load", check: gracefulShutdown},
	{id: "S25", fault: "random faults for six minutes, or a day", check: soak, extra: func() time.Duration { return 2 * *soakTime }},
	{id: "S26", fault: "50 reloads under load, then SIGTERM", check: reloadStorm},
	{id: "S27", fault: "an intermediary answers every request with a block page for 20 s", check: intermediary},
	{id: "S28", fault: "the queue fills its own disk", check: diskFilledByQueue},
	{id: "S29", fault: "the reader of the log stalls, then ends", check: lostLogReader},
	{id: "S30", fault: "token endpoints misbehave in 15 ways", check: misbehavingTokenEndpoint},
	{id: "S31", fault: "GOAWAY on each connection after every 1,000 and every 100 requests", check: gracefulGoAway},
	{id: "S32", fault: "a broadcast is paused five times, another one is recalled", check: broadcasts, extra: func() time.Duration { return time.Duration(*devices) * time.Millisecond / 5 }},
	{id: "S33", fault: "a provider answers only 503 while 200,000 notifications are queued", check: backlogOfOutage},
}
