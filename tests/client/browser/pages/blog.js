// A writer's dashboard: all posts, who is online, and how many comments there are on the writer's own posts.
import echo from "./echo.js";
import { fetchJson, oneAtATime, reconnectSoon, showRows } from "./live.js";

const me = new URLSearchParams(location.search).get("me");
const element = (id) => document.getElementById(id);

const posts = oneAtATime(async () => showRows(element("posts"), element("post"), await fetchJson("/api/posts")));
const comments = oneAtATime(async () => {
  const [{ count }] = await fetchJson(`/api/writers/${me}/comments`);
  element("comments").textContent = count;
});

// `subscribed` comes at the first joining and after each re-connection.
echo
  .channel("posts")
  .subscribed(posts)
  .listen("PostCreated", posts)
  .listen("PostUpdated", posts)
  .listen("PostDeleted", posts)
  .listen(".rowcast.resync", posts);
echo
  .private(`writer.${me}`)
  .subscribed(comments)
  .listen("CommentCreated", comments)
  .listen(".rowcast.resync", comments);

let online = [];
const showOnline = (now) => {
  online = now;
  element("online").textContent = online.map(({ name }) => name).sort().join(", ");
};
echo
  .join("online")
  .here(showOnline)
  .joining((one) => showOnline([...online, one]))
  .leaving((one) => showOnline(online.filter(({ id }) => id !== one.id)));

const showConnection = () => (element("connection").textContent = echo.connectionStatus());
echo.connector.onConnectionChange(showConnection);
showConnection();
reconnectSoon(echo.connector.pusher);
