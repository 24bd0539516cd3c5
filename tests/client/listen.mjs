// Joins channels with pusher-js as a page does, and prints what happens, one JSON object a line:
// {"joined": {"channel"}}, {"refused": {"channel", "why"}}, {"heard": {"channel", "event", "data", "at_ms"}},
// {"here": {"channel", "member"}} for each member of a presence channel, {"state": "connected"}, {"socket": "12.34"}. Reads {"join": "channel"} and, to listen with Laravel Echo,
// {"echo": {"kind": "private", "channel", "event"}}; ends with its input.
import { createHash, createHmac } from "node:crypto";
import { createInterface } from "node:readline";
import Echo from "laravel-echo";
import PusherModule from "pusher-js";

const { Pusher = PusherModule } = PusherModule;
const { app } = JSON.parse(process.argv[2]);

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

// The key of one encrypted channel, as the application's Pusher library makes it.
const sharedSecret = (channel) =>
  createHash("sha256").update(channel).update(Buffer.from(app.encryption_key, "base64")).digest("base64");

// What an application's auth route answers.
const authorize = ({ socketId, channelName }, answer) => {
  const presence = channelName.startsWith("presence-");
  const channelData = presence ? JSON.stringify({ user_id: socketId, user_info: { id: socketId } }) : undefined;
  const signed = [socketId, channelName, ...(presence ? [channelData] : [])].join(":");
  const signature = createHmac("sha256", app.secret).update(signed).digest("hex");
  const encrypted = channelName.startsWith("private-encrypted-");
  answer(null, {
    auth: `${app.key}:${signature}`,
    ...(presence && { channel_data: channelData }),
    ...(encrypted && { shared_secret: sharedSecret(channelName) }),
  });
};

const pusher = new Pusher(app.key, {
  wsHost: app.host,
  wsPort: app.port,
  forceTLS: false,
  enabledTransports: ["ws"],
  // Required, and without meaning where a host is given.
  cluster: "none",
  channelAuthorization: { customHandler: authorize },
});
pusher.connection.bind("state_change", ({ current }) => {
  if (current === "connected") print({ socket: pusher.connection.socket_id });
  print({ state: current });
});

const heard = (channel, event, data) => {
  const at_ms = performance.timeOrigin + performance.now();
  print({ heard: { channel, event, data: data ?? null, at_ms } });
};

const join = (name) => {
  const channel = pusher.subscribe(name);
  channel.bind_global((event, data) => {
    if (event === "pusher:subscription_succeeded") print({ joined: { channel: name } });
    else if (event === "pusher:subscription_error") print({ refused: { channel: name, why: data } });
    else if (!event.startsWith("pusher:")) heard(name, event, data);
  });
};

const echo = new Echo({ broadcaster: "pusher", key: app.key, client: pusher });
const listen = ({ kind, channel: name, event }) => {
  const channel = echo[kind](name);
  if (kind === "join") {
    const here = (member) => print({ here: { channel: name, member } });
    channel.here((members) => members.forEach(here)).joining(here);
  }
  channel
    .subscribed(() => print({ joined: { channel: name } }))
    .error((why) => print({ refused: { channel: name, why } }))
    .listen(event, (data) => heard(name, event, data));
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if (command.join) join(command.join);
    if (command.echo) listen(command.echo);
  })
  .on("close", () => process.exit(0));
