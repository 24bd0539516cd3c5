// What a Livewire component does by its attributes:
//   #[On('echo-private:admin.invoices,InvoiceCreated')]
//   #[On('echo-private:admin.invoices,InvoiceUpdated')]
//   #[On('echo-private:admin.invoices,.rowcast.resync')]
//   public function refresh(): void {}
// To be right after a re-connection too, the panel refreshes when it has joined:
//   window.Echo.private('admin.invoices').subscribed(() => Livewire.dispatch('refresh'))
export function invoices(echo, app) {
  const fetch = () => app.refreshInvoices();
  echo
    .private("admin.invoices")
    .subscribed(fetch)
    .listen("InvoiceCreated", fetch)
    .listen("InvoiceUpdated", fetch)
    // Too much has changed to tell it one by one.
    .listen(".rowcast.resync", fetch);
}

// Any resource's table: 'customers', 'tracks'.
export function resource(echo, app, name) {
  const fetch = () => app.refresh(name);
  echo
    .private(`admin.${name}`)
    .subscribed(fetch)
    .listen("ModelCreated", fetch)
    .listen("ModelUpdated", fetch)
    .listen("ModelDeleted", fetch)
    .listen(".rowcast.resync", fetch);
}

export function users(echo, app) {
  const fetch = () => app.refreshUsers();
  echo
    .private("admin.users")
    .subscribed(fetch)
    .listen("UserActivity", fetch)
    .listen(".rowcast.resync", fetch);
}

// What the application says itself is shown as it comes. Nothing tells what was
// missed while the page was away: what must not be missed belongs into a table.
export function messages(echo, app) {
  echo.private("admin.notifications").listen("NotificationSent", ({ message, type }) => app.toast(message, type));
  echo.private("admin.alerts").listen("SystemAlert", ({ message, severity }) => app.alert(message, severity));
}
