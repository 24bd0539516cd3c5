// A server panel with Laravel's own hooks: each part fetches again what it shows.
import { configureEcho, useConnectionStatus, useEcho } from "@laravel/echo-react";
import { useEffect, useMemo, useState } from "react";
import { createRoot } from "react-dom/client";
import { fetchJson, oneAtATime } from "./live.js";

configureEcho({ broadcaster: "reverb" });

// What `url` answers, fetched again on each of the events, when the channel is joined and after each re-connection.
function useLive(url, channelName, events) {
  const [data, setData] = useState();
  const refetch = useMemo(() => oneAtATime(async () => setData(await fetchJson(url))), [url]);
  const { channel } = useEcho(channelName, [...events, ".rowcast.resync"], refetch, [refetch]);
  useEffect(() => {
    channel().subscribed(refetch);
    // Another part of the page may have joined the channel before.
    refetch();
  }, [channel, refetch]);
  return data;
}

function Servers() {
  const servers = useLive("/api/servers", "servers", ["ServerUpdated"]);
  return (
    <ul id="servers" style={{ height: 100, overflow: "auto" }}>
      {servers?.map((server) => (
        <li key={server.id} data-id={server.id}>
          {server.vanity_name}: <b>{server.provision_status}</b>, {server.rules} rules
        </li>
      ))}
    </ul>
  );
}

function Server({ id }) {
  const server = useLive(`/api/servers/${id}`, `servers.${id}`, ["ServerUpdated"]);
  return (
    <section id="server">
      <h1>{server?.vanity_name}</h1>
      <p id="status">{server?.provision_status}</p>
      <p id="step">{server?.provision?.step}</p>
      <ul id="rules">
        {server?.rules?.map((rule) => (
          <li key={rule.id}>{rule.name}</li>
        ))}
      </ul>
      <form>
        <input id="rename" placeholder="New name" />
      </form>
    </section>
  );
}

function Site({ id }) {
  const site = useLive(`/api/sites/${id}`, `sites.${id}`, ["ServerSiteUpdated"]);
  return (
    <p id="site">
      {site?.domain}: {site?.status}
    </p>
  );
}

function Panel() {
  const connection = useConnectionStatus();
  return (
    <>
      <p id="connection">{connection}</p>
      <Servers />
      <Server id={1} />
      <Site id={1} />
    </>
  );
}

createRoot(document.querySelector("main")).render(<Panel />);
