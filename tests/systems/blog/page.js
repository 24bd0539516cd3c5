// The list of posts: what comes is inserted, changed and removed by its id.
export function posts(echo, app) {
  echo
    .channel("posts")
    // After joining, and after each re-connection: then it is joined again.
    .subscribed(() => app.fetchPosts())
    .listen("PostCreated", (post) => app.insert(post))
    .listen("PostUpdated", (post) => app.change(post))
    .listen("PostDeleted", ({ id }) => app.remove(id))
    // Too much has changed to tell it one by one.
    .listen(".rowcast.resync", () => app.fetchPosts());
}

// Any entity, by (action, data).
export function dashboard(echo, app) {
  echo
    .private("admin.dashboard")
    .subscribed(() => app.fetchDashboard())
    .listen("DatabaseUpdated", ({ entity, action, data }) => app.changed(entity, action, data.id))
    .listen(".rowcast.resync", () => app.fetchDashboard());
}

// A writer counts new comments.
export function writer(echo, app, id) {
  echo
    .private(`writer.${id}`)
    .subscribed(() => app.fetchCount())
    .listen("CommentCreated", () => app.countOneMore())
    .listen(".rowcast.resync", () => app.fetchCount());
}

// Who is online, and whether this page is. rowcast has no part in it.
export function online(echo, app) {
  echo
    .join("online")
    .here((users) => app.here(users))
    .joining((user) => app.joining(user))
    .leaving((user) => app.leaving(user));
  echo.connector.pusher.connection.bind("state_change", ({ current }) => app.connection(current));
}

// With rowcast-recommended.toml a notification says only that something changed.
// A resync comes as the same events, so nothing else is listened for.
export function recommendedPosts(echo, app) {
  const fetch = () => app.fetchPosts();
  echo
    .private("posts")
    .subscribed(fetch)
    .listen(".PostCreated", fetch)
    .listen(".PostUpdated", fetch)
    .listen(".PostDeleted", fetch);
}

export function recommendedWriter(echo, app, id) {
  const fetch = () => app.fetchCount();
  echo
    .private(`users.${id}.comments`)
    .subscribed(fetch)
    .listen(".CommentCreated", fetch)
    .listen(".CommentUpdated", fetch)
    .listen(".CommentDeleted", fetch);
}
