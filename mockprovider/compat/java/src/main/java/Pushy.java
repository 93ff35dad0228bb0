// SPDX-License-Identifier: Apache-2.0

import com.eatthepath.pushy.apns.ApnsClient;
import com.eatthepath.pushy.apns.ApnsClientBuilder;
import com.eatthepath.pushy.apns.PushNotificationResponse;
import com.eatthepath.pushy.apns.auth.ApnsSigningKey;
import com.eatthepath.pushy.apns.util.SimpleApnsPayloadBuilder;
import com.eatthepath.pushy.apns.util.SimpleApnsPushNotification;
import java.io.File;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.concurrent.ExecutionException;

/** Sends to the mock with pushy, and ends with status 1 at the first unexpected response. */
public class Pushy {
  static final String TOKEN_SUFFIX = "ff785122b4ad28809a3420982341241421348097878e577c991de8f0";

  public static void main(String[] args) throws Exception {
    String[] apns = args[0].split(":");
    URI script = URI.create(args[1]);
    ApnsClient client = new ApnsClientBuilder()
        .setApnsServer(apns[0], Integer.parseInt(apns[1]))
        .setTrustedServerCertificateChain(new File(args[2]))
        .setSigningKey(ApnsSigningKey.loadFromPkcs8File(new File(args[3]), args[4], args[5]))
        .build();

    expect(send(client, "00fc13ad"), 200, null);
    expect(send(client, "bad00000"), 400, "BadDeviceToken");
    expect(send(client, "bad00001"), 400, "DeviceTokenNotForTopic");
    PushNotificationResponse<?> unregistered = expect(send(client, "dead0000"), 410, "Unregistered");
    if (!unregistered.getTokenInvalidationTimestamp().isPresent()) {
      throw new AssertionError("410 without a timestamp");
    }
    expect(send(client, "dead0001"), 410, "ExpiredToken");
    expect(send(client, "fa110429"), 429, "TooManyRequests");
    expect(send(client, "fa110500"), 500, "InternalServerError");
    expect(send(client, "fa110503"), 503, "ServiceUnavailable");
    for (String reason : new String[] {"ExpiredProviderToken", "InvalidProviderToken", "Forbidden", "BadEnvironmentKeyInToken"}) {
      setScript(script, "{\"faults\":[{\"service\":\"apns\",\"status\":403,\"reason\":\"" + reason + "\",\"times\":1}]}");
      expect(send(client, "00fc13ad"), 403, reason);
    }

    expect(send(client, "00fc13ad"), 200, null);

    setScript(script, "{\"faults\":[{\"service\":\"apns\",\"goaway\":{\"every\":10}}]}");
    int retries = 0;
    for (int i = 0; i < 50; i++) {
      try {
        expect(send(client, "00fc13ad"), 200, null);
      } catch (ExecutionException e) { // the connection had just received GOAWAY
        retries++;
        expect(send(client, "00fc13ad"), 200, null);
      }
    }
    setScript(script, "");
    client.close().get();
    System.out.println("pushy: ok; " + retries + " of 50 sends were retried, with a GOAWAY after every 10");
  }

  static PushNotificationResponse<?> send(ApnsClient client, String tokenPrefix) throws Exception {
    String payload = new SimpleApnsPayloadBuilder().setAlertTitle("Hello").setAlertBody("World").build();
    return client.sendNotification(new SimpleApnsPushNotification(tokenPrefix + TOKEN_SUFFIX, "com.example.app", payload)).get();
  }

  static PushNotificationResponse<?> expect(PushNotificationResponse<?> got, int status, String reason) {
    if (got.getStatusCode() != status || !java.util.Objects.equals(got.getRejectionReason().orElse(null), reason)) {
      throw new AssertionError("want " + status + " " + reason + ", got " + got);
    }
    return got;
  }

  static void setScript(URI script, String text) throws Exception {
    HttpRequest put = HttpRequest.newBuilder(script).PUT(HttpRequest.BodyPublishers.ofString(text)).build();
    HttpResponse<String> response = HttpClient.newHttpClient().send(put, HttpResponse.BodyHandlers.ofString());
    if (response.statusCode() != 204) {
      throw new AssertionError(response.body());
    }
  }
}
