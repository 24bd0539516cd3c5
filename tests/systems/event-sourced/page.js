export function conversation(echo, app, id) {
  const fetch = () => app.fetchMessages(id);
  echo
    .join(`conversation.${id}`)
    // After joining, and after each re-connection: then it is joined again.
    .subscribed(fetch)
    .listen(".message.sent", (message) => app.append(message.message_id))
    // Too much has changed to tell it one by one.
    .listen(".rowcast.resync", fetch);
}

// `type` is the class name with dots, 'App.Models.Post': a channel's name holds
// no backslash. The application admits to it by
//   Broadcast::channel('commentable.App.Models.Post.{id}', fn ($user, $id) => …);
export function comments(echo, app, type, id) {
  const fetch = () => app.fetchComments(type, id);
  echo
    .private(`commentable.${type}.${id}`)
    .subscribed(fetch)
    .listen(".comment.created", fetch)
    .listen(".rowcast.resync", fetch);
}

export function team(echo, app, id) {
  const fetch = () => app.fetchTodos(id);
  echo
    .private(`team.${id}`)
    .subscribed(fetch)
    // user_name is null if the application did not say who it was.
    .listen(".todo.completed", ({ todo_id, user_name }) => app.completed(todo_id, user_name))
    .listen(".rowcast.resync", fetch);
}
