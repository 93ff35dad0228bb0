// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

export const ready = JSON.parse(readFileSync(process.env.MOCK, 'utf8'));

// call calls the HTTP API of the mock.
async function call(url, options) {
  const response = await fetch(url, options);
  assert.ok(response.ok, `${options?.method ?? 'GET'} ${url}: ${response.status}`);
  return response;
}

// ledger waits until n entries match and returns them.
export async function ledger(query, n = 1) {
  const url = `${ready.ledger}?${new URLSearchParams({ ...query, await: n })}`;
  return (await (await call(url)).json()).entries;
}

export const clear = () => call(ready.ledger, { method: 'DELETE' });

// setScript replaces the script. Without faults, it ends the script.
export const setScript = (...faults) => call(ready.script, { method: 'PUT', body: JSON.stringify({ faults }) });

export async function subscribe(flavour, server_key) {
  const response = await call(ready.subscriptions, { method: 'POST', body: JSON.stringify({ flavour, server_key }) });
  return response.json();
}

export const unsubscribe = (endpoint) =>
  call(`${ready.subscriptions}?${new URLSearchParams({ endpoint })}`, { method: 'DELETE' });
