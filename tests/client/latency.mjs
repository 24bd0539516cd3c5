// Updates one row after the other and measures from the moment that the commit returned to the moment that pusher-js
// hands the event to the page. With "push" the application tells the server itself, as without rowcast.
// Prints one line: {"ms": [each, in order], "accepted_ms": [each, where it tells the server itself]}.
import PusherModule from "pusher-js";
import Pusher from "pusher";
import pg from "pg";

const { app, database, table, channel, event, push, warm_up, count } = JSON.parse(process.argv[2]);

const { Pusher: Page = PusherModule } = PusherModule;
const page = new Page(app.key, {
  wsHost: app.host,
  wsPort: app.port,
  forceTLS: false,
  enabledTransports: ["ws"],
  cluster: "none",
});
const server = new Pusher({
  appId: app.app_id,
  key: app.key,
  secret: app.secret,
  host: app.host,
  port: String(app.port),
  useTLS: false,
});
const db = new pg.Client({ connectionString: database });
await db.connect();

let told;
const joined = page.subscribe(channel);
// At its first start rowcast does not know what it has missed, so it tells a resync.
joined.bind(event, (data) => data.action === "resync" || told(data));
await new Promise((resolve) => joined.bind("pusher:subscription_succeeded", resolve));

const ms = [];
const accepted_ms = [];
for (let id = 1; id <= warm_up + count; id++) {
  const heard = new Promise((resolve) => (told = resolve));
  await db.query(`update ${table} set views = views + 1 where id = $1`, [id]);
  const committed = performance.now();
  if (push) {
    await server.trigger(channel, event, { id });
    accepted_ms.push(performance.now() - committed);
  }
  const data = await heard;
  if (data.id !== id) throw new Error(`heard of ${data.id} instead of ${id}`);
  ms.push(performance.now() - committed);
}
process.stdout.write(JSON.stringify({ ms: ms.slice(warm_up), accepted_ms: accepted_ms.slice(warm_up) }) + "\n", () => process.exit(0));
