// A desk. `app` asks the application and shows what it answers, in place: the
// list keeps its scroll position and a form that is being filled in.
export function orders(echo, app) {
  echo
    .channel("orders")
    // After joining, and after each re-connection: then it is joined again.
    .subscribed(() => app.fetchOrders())
    .listen(".order.status.changed", ({ id }) => app.fetchOrder(id))
    // Too much has changed to tell it one by one.
    .listen(".rowcast.resync", () => app.fetchOrders());
}

export function registrations(echo, app) {
  echo
    .channel("registrations")
    .subscribed(() => app.fetchRegistrations())
    .listen(".registration.created", ({ id }) => app.fetchRegistration(id))
    .listen(".registration.released", ({ id }) => app.fetchRegistration(id))
    .listen(".rowcast.resync", () => app.fetchRegistrations());
}

// With rowcast-encrypted.toml only the way to join differs. It needs pusher-js
// with encryption: import Pusher from 'pusher-js/with-encryption'.
export function encryptedOrders(echo, app) {
  echo
    .encryptedPrivate("orders")
    .subscribed(() => app.fetchOrders())
    .listen(".order.status.changed", ({ id }) => app.fetchOrder(id))
    .listen(".rowcast.resync", () => app.fetchOrders());
}
