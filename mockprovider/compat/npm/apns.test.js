// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test, after, afterEach } from 'node:test';
import apn from '@parse/node-apn';
import { clear, ledger, ready, setScript } from './mock.js';

const deviceToken = '00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0';
const [address, port] = ready.apns.split(':');
const [manageChannelsAddress, manageChannelsPort] = ready.apns_manage.split(':');

const newProvider = () => new apn.Provider({
  token: { key: ready.apns_key_file, keyId: ready.apns_key_id, teamId: ready.apns_team_id },
  address, port: Number(port), manageChannelsAddress, manageChannelsPort: Number(manageChannelsPort), production: true,
});
const provider = newProvider();
after(() => provider.shutdown());
afterEach(async () => { await setScript(); await clear(); });

function newNotification(more) {
  return Object.assign(new apn.Notification({ aps: { alert: { title: 'Hello', body: 'World' } } }),
    { topic: ready.apns_topic, pushType: 'alert' }, more);
}

async function sendRejected(notification, to = deviceToken) {
  const { sent, failed } = await provider.send(notification, to);
  assert.deepEqual(sent, []);
  return failed[0];
}

test('node-apn is accepted', async () => {
  const id = 'eabeae54-14a8-11e5-b60b-1697f925ec7b';
  const { sent, failed } = await provider.send(newNotification({ id, collapseId: 'score', priority: 5 }), deviceToken);
  assert.deepEqual(failed, []);
  assert.equal(sent[0].device, deviceToken);
  const [entry] = await ledger({ service: 'apns', apns_id: id, status: 200 });
  assert.equal(entry.token, deviceToken);
  assert.match(entry.body, /World/);
});

// The mock refuses the token of zeros, which nobody has.
// The requests of the first send leave before the client has the SETTINGS of the mock.
test('node-apn sends to several devices on a new connection', async () => {
  const fresh = newProvider();
  after(() => fresh.shutdown());
  const devices = Array.from({ length: 50 }, (_, i) => String(i + 1).padStart(64, '0'));
  const { sent, failed } = await fresh.send(newNotification(), devices);
  assert.deepEqual(failed, []);
  assert.deepEqual(sent.map((s) => s.device).sort(), devices);
});

test('node-apn gets reasons for invalid notifications', async () => {
  for (const [reason, notification, to] of [
    ['BadDeviceToken', newNotification(), 'bad00000' + deviceToken.slice(8)],
    ['DeviceTokenNotForTopic', newNotification(), 'bad00001' + deviceToken.slice(8)],
    ['MissingTopic', newNotification({ topic: '' })],
    ['TopicDisallowed', newNotification({ topic: 'com.example.other' })],
    ['BadTopic', newNotification({ pushType: 'voip' })],
    ['InvalidPushType', newNotification({ pushType: 'loud' })],
    ['BadPriority', newNotification({ priority: 7 })],
    ['BadCollapseId', newNotification({ collapseId: 'x'.repeat(65) })],
    ['PayloadTooLarge', newNotification({ payload: { x: 'x'.repeat(4096) } })],
  ]) {
    assert.equal((await sendRejected(notification, to)).response?.reason, reason);
  }
  const unregistered = await sendRejected(newNotification(), 'dead0000' + deviceToken.slice(8));
  assert.equal(unregistered.status, 410);
  assert.ok(Number.isInteger(unregistered.response.timestamp));
});

test('node-apn reads every documented error', async () => {
  for (const [status, reasons] of Object.entries({
    400: ['BadCollapseId', 'BadExpirationDate', 'BadMessageId', 'BadPriority', 'DuplicateHeaders', 'InvalidPushType', 'PayloadEmpty',
      'MissingDeviceToken', 'BadDeviceToken', 'DeviceTokenNotForTopic', 'BadTopic', 'MissingTopic', 'TopicDisallowed', 'IdleTimeout'],
    403: ['BadCertificate', 'BadCertificateEnvironment', 'ExpiredProviderToken', 'Forbidden', 'InvalidProviderToken', 'MissingProviderToken',
      'UnrelatedKeyIdInToken', 'BadEnvironmentKeyIdInToken', 'BadEnvironmentKeyInToken'],
    404: ['BadPath'], 405: ['MethodNotAllowed'], 410: ['ExpiredToken', 'Unregistered'], 413: ['PayloadTooLarge'],
    429: ['TooManyProviderTokenUpdates', 'TooManyRequests'], 500: ['InternalServerError'], 503: ['ServiceUnavailable', 'Shutdown'],
  })) {
    for (const reason of reasons) {
      await setScript({ service: 'apns', status: Number(status), reason });
      const got = await sendRejected(newNotification());
      assert.equal(got.status, Number(status), reason);
      const replaced = { InternalServerError: 'Error 500, stream ended unexpectedly', ExpiredProviderToken: 'ExpiredProviderToken' };
      assert.equal(got.response?.reason ?? got.error?.message, replaced[reason] ?? reason, JSON.stringify(got));
    }
  }
});

test('node-apn retries after 503', async () => {
  await setScript({ service: 'apns', status: 503, times: 2 });
  const { sent, failed } = await provider.send(newNotification(), deviceToken);
  assert.deepEqual(failed, []);
  assert.equal(sent.length, 1);
  await ledger({ service: 'apns', token: deviceToken }, 3);
});

// node-apn can use a connection that has just received GOAWAY, and does not retry that send; its callers
// must. The test checks that a retry uses a new connection, and that nothing is sent twice.
test('node-apn reconnects after every GOAWAY', async () => {
  await setScript({ service: 'apns', goaway: { every: 10 } });
  for (let i = 0; i < 50; i++) {
    let failed = (await provider.send(newNotification(), deviceToken)).failed;
    if (failed.length > 0) {
      assert.match(failed[0].error.message, /error|ended/);
      failed = (await provider.send(newNotification(), deviceToken)).failed;
    }
    assert.deepEqual(failed, []);
  }
  const accepted = await ledger({ service: 'apns', status: 200 }, 50);
  assert.equal(accepted.length, 50);
  assert.ok(new Set(accepted.map((e) => `${e.endpoint} ${e.conn}`)).size >= 5, 'fewer than five connections');
});

test('node-apn creates, reads, lists, sends to and deletes a channel', async () => {
  const manage = async (action, more) => {
    const { sent, failed } = await provider.manageChannels(Object.assign(new apn.Notification(), more), ready.apns_topic, action);
    assert.deepEqual(failed, [], action);
    return sent[0];
  };
  const created = await manage('create', { rawPayload: { 'message-storage-policy': 1, 'push-type': 'LiveActivity' } });
  const channelId = created['apns-channel-id'];
  assert.ok(channelId, JSON.stringify(created));
  const read = await manage('read', { channelId });
  assert.equal(read['message-storage-policy'], 1, JSON.stringify(read));
  assert.deepEqual((await manage('readAll')).channels, [channelId]);

  const update = Object.assign(new apn.Notification({ aps: { timestamp: 1, event: 'update', 'content-state': {} } }), { channelId, pushType: 'liveactivity' });
  const { failed } = await provider.broadcast(update, ready.apns_topic);
  assert.deepEqual(failed, []);
  await ledger({ service: 'apns', token: channelId, status: 200 });

  await manage('delete', { channelId });
  const after = await provider.broadcast(update, ready.apns_topic);
  assert.equal(after.failed[0].response.reason, 'ChannelNotRegistered');
});
