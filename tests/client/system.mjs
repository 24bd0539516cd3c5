// The pages of one system: each a browser of its own, with Laravel Echo over pusher-js. Prints what happens, one JSON
// object a line: {"connected": {"client", "socket"}}, {"joined": {"client", "channel"}},
// {"refused": {"client", "channel", "why"}}, {"heard": {"client", "channel", "event", "by", "data", "at_ms"}}, where
// `by` lists the `.listen(…)` that heard it. What comes on a channel and nobody listens for is printed with none. And
// {"called": {"client", "call"}}, `"fetchOrder 7"`, for what the system's own page.js asks of its application. Reads
// {"open": {"client", "pages": [{"name", "parameters"}], "joins": [{"method", "name", "events"}]}}, {"leave": {"client",
// "channel"}}, {"reconnect": {"client"}}; ends with its input.
import { createHash, createHmac } from "node:crypto";
import { createInterface } from "node:readline";
import Echo from "laravel-echo";
import PusherModule from "pusher-js";

const { Pusher = PusherModule } = PusherModule;
const { app, clients, page } = JSON.parse(process.argv[2]);
const pages = await import(page);

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const sign = (text) => createHmac("sha256", app.secret).update(text).digest("hex");

// What an application's auth route answers: 403 where its `Broadcast::channel` says no, and for one who does not ask it
// but makes up an answer, something that only the secret could have signed.
const authorizer = ({ user, refused = [], forged = [] }) => ({ socketId, channelName }, callback) => {
  // Later, as an answer from the network comes.
  const answer = (error, auth) => setImmediate(callback, error, auth);
  if (refused.includes(channelName)) return answer(new Error("403"), null);
  if (forged.includes(channelName)) return answer(null, { auth: `${app.key}:${"0".repeat(64)}` });
  if (channelName.startsWith("presence-")) {
    const channel_data = JSON.stringify({ user_id: String(user.id), user_info: user });
    const auth = `${app.key}:${sign(`${socketId}:${channelName}:${channel_data}`)}`;
    return answer(null, { auth, channel_data });
  }
  const auth = `${app.key}:${sign(`${socketId}:${channelName}`)}`;
  if (!channelName.startsWith("private-encrypted-")) return answer(null, { auth });
  const key = Buffer.from(app.encryption_key.replace(/^base64:/, ""), "base64");
  const shared_secret = createHash("sha256").update(channelName).update(key).digest("base64");
  answer(null, { auth, shared_secret });
};

const connect = (client) => {
  const pusher = new Pusher(app.key, {
    wsHost: app.host,
    wsPort: app.port,
    forceTLS: false,
    enabledTransports: ["ws"],
    // Required, and without meaning where a host is given.
    cluster: "none",
    channelAuthorization: { customHandler: authorizer(client) },
  });
  pusher.connection.bind("connected", () =>
    print({ connected: { client: client.name, socket: pusher.connection.socket_id } }),
  );
  pusher.connection.bind("error", (error) => print({ error: { client: client.name, error } }));
  return new Echo({ broadcaster: "pusher", key: app.key, client: pusher });
};

const join = (client, echo, { method, name, events }) => {
  const channel = echo[method](name);
  const at = { client, channel: channel.name };
  channel.subscribed(() => print({ joined: at }));
  channel.error((why) => print({ refused: { ...at, why } }));
  // pusher-js calls those that want every event first, and then, before anything else, those that want this one.
  let last;
  channel.subscription.bind_global((event, data) => {
    if (event.startsWith("pusher:")) return;
    last = { ...at, event, by: [], data: data ?? null, at_ms: performance.timeOrigin + performance.now() };
    queueMicrotask(print.bind(null, { heard: last }));
  });
  for (const event of events) channel.listen(event, () => last.by.push(event));
  if (method !== "join") return;
  const presence = (event) => (data) =>
    print({ heard: { ...at, event, by: [event], data, at_ms: performance.timeOrigin + performance.now() } });
  channel.here(presence(":here")).joining(presence(":joining")).leaving(presence(":leaving"));
};

const echos = Object.fromEntries(clients.map((client) => [client.name, connect(client)]));

// The application of a page: whatever is asked of it, it only tells.
const application = (client) =>
  new Proxy(
    {},
    { get: (_, method) => (...given) => print({ called: { client, call: [method, ...given.map(String)].join(" ") } }) },
  );

// All of it before the server can answer, so that both hear of the joining.
const open = ({ client, pages: shown, joins }) => {
  for (const { name, parameters } of shown) pages[name](echos[client], application(client), ...parameters);
  for (const it of joins) join(client, echos[client], it);
};

const reconnect = ({ connector: { pusher } }) => {
  pusher.disconnect();
  pusher.connect();
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if (command.open) open(command.open);
    if (command.leave) echos[command.leave.client].leaveChannel(command.leave.channel);
    if (command.reconnect) reconnect(echos[command.reconnect.client]);
  })
  .on("close", () => process.exit(0));
