// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

export const at = JSON.parse(readFileSync(process.env.MOCK, 'utf8'));

// ask speaks to the mock's own HTTP API.
async function ask(url, options) {
  const answer = await fetch(url, options);
  assert.ok(answer.ok, `${options?.method ?? 'GET'} ${url}: ${answer.status}`);
  return answer;
}

// ledger waits for so many entries that match, and returns them.
export async function ledger(query, n = 1) {
  const url = `${at.ledger}?${new URLSearchParams({ ...query, await: n })}`;
  return (await (await ask(url)).json()).entries;
}

export const clear = () => ask(at.ledger, { method: 'DELETE' });

// play replaces the script; no faults end it.
export const play = (...faults) => ask(at.script, { method: 'PUT', body: JSON.stringify({ faults }) });

export async function subscribe(flavour, server_key) {
  const answer = await ask(at.subscriptions, { method: 'POST', body: JSON.stringify({ flavour, server_key }) });
  return answer.json();
}

export const unsubscribe = (endpoint) =>
  ask(`${at.subscriptions}?${new URLSearchParams({ endpoint })}`, { method: 'DELETE' });
