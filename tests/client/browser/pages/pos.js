// A desk: orders and registrations. What is done at one desk appears at the others.
import echo from "./echo.js";
import { fetchJson, oneAtATime, reconnectSoon, showRows } from "./live.js";

const element = (id) => document.getElementById(id);
const list = (url, into, template) =>
  oneAtATime(async () => showRows(element(into), element(template), await fetchJson(url)));
const orders = list("/api/orders", "orders", "order");
const registrations = list("/api/registrations", "registrations", "registration");

// `subscribed` comes at the first joining and after each re-connection.
echo
  .channel("orders")
  .subscribed(orders)
  .listen(".order.status.changed", orders)
  .listen(".rowcast.resync", orders);
echo
  .channel("registrations")
  .subscribed(registrations)
  .listen(".registration.created", registrations)
  .listen(".registration.released", registrations)
  .listen(".rowcast.resync", registrations);
reconnectSoon(echo.connector.pusher);

// This desk too learns from rowcast what became of it.
const post = (url) => fetch(url, { method: "POST" });
element("orders").addEventListener("click", ({ target }) => {
  const { id } = target.closest("tr").dataset;
  if (target.matches(".next")) post(`/api/orders/${id}/next`);
  if (target.matches(".cancel")) post(`/api/orders/${id}/cancel`);
});
element("new").addEventListener("submit", (event) => {
  event.preventDefault();
  post(`/api/orders/new/${element("number").value}`);
  element("number").value = "";
});
