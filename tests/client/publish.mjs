// Sends one event as an application does, and ends with 0 once the server has accepted it.
import Pusher from "pusher";

const { app, channels, event, data } = JSON.parse(process.argv[2]);
const pusher = new Pusher({
  appId: app.app_id,
  key: app.key,
  secret: app.secret,
  host: app.host,
  port: String(app.port),
  useTLS: false,
});
const answer = await pusher.trigger(channels, event, data);
if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
