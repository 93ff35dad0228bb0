// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test, afterEach } from 'node:test';
import webpush from 'web-push';
import { ledger, setScript, subscribe, unsubscribe } from './mock.js';

const { publicKey, privateKey } = webpush.generateVAPIDKeys();
const vapidDetails = { subject: 'mailto:ops@example.com', publicKey, privateKey };
const flavours = ['google', 'mozilla', 'apple'];

afterEach(() => setScript());

for (const flavour of flavours) {
  test(`${flavour}: messages of web-push are decrypted`, async () => {
    const to = await subscribe(flavour, publicKey);
    const got = await webpush.sendNotification(to, `Grüße aus ${flavour}`, { vapidDetails, TTL: 60, urgency: 'high', topic: 'scores' });
    assert.equal(got.statusCode, 201);
    assert.match(got.headers.location, /\/message\//);
    const token = new URL(to.endpoint).pathname.split('/').pop();
    const [entry] = await ledger({ service: 'webpush', token });
    assert.equal(entry.plaintext, `Grüße aus ${flavour}`);
  });

  test(`${flavour}: an ended subscription gets 410`, async () => {
    const to = await subscribe(flavour);
    await unsubscribe(to.endpoint);
    await assert.rejects(webpush.sendNotification(to, 'Hello', { vapidDetails }), { statusCode: 410 });
  });

  test(`${flavour}: the key of another site is rejected`, async () => {
    const to = await subscribe(flavour, webpush.generateVAPIDKeys().publicKey);
    const statusCode = { google: 403, mozilla: 401, apple: 400 }[flavour];
    const body = { google: /do not correspond/, mozilla: /"errno":109/, apple: /VapidPkHashMismatch/ }[flavour];
    await assert.rejects(webpush.sendNotification(to, 'Hello', { vapidDetails }), { statusCode, body });
  });

  test(`${flavour}: every documented error reaches the caller`, async () => {
    const to = await subscribe(flavour);
    for (const statusCode of [400, 401, 403, 404, 410, 413, 429, 500, 502, 503]) {
      await setScript({ service: 'webpush', status: statusCode, retry_after: '30s' });
      await assert.rejects(webpush.sendNotification(to, 'Hello', { vapidDetails }), (err) => {
        assert.equal(err.statusCode, statusCode);
        assert.equal(err.headers['retry-after'], '30');
        return true;
      });
    }
  });
}

test('a push without VAPID is rejected', async () => {
  const to = await subscribe('mozilla');
  await assert.rejects(webpush.sendNotification(to, 'Hello'), { statusCode: 401 });
});

test('aesgcm is rejected', async () => {
  const to = await subscribe('mozilla');
  await assert.rejects(webpush.sendNotification(to, 'Hello', { vapidDetails, contentEncoding: 'aesgcm' }), { statusCode: 400 });
});
