// One server's page. In React: useEcho(`servers.${id}`, 'ServerUpdated', fetch),
// and the two others on the same channel.
export function server(echo, app, id) {
  const fetch = () => app.fetchServer(id);
  echo
    .private(`servers.${id}`)
    // After joining, and after each re-connection: then it is joined again.
    .subscribed(fetch)
    .listen("ServerUpdated", fetch)
    // Too much has changed to tell it one by one.
    .listen(".rowcast.resync", fetch);
}

export function serverList(echo, app) {
  const fetch = () => app.fetchServers();
  echo
    .private("servers")
    .subscribed(fetch)
    .listen("ServerUpdated", fetch)
    .listen(".rowcast.resync", fetch);
}

export function provisioning(echo, app, id) {
  const fetch = () => app.fetchSteps(id);
  echo
    .private(`servers.${id}.provision`)
    .subscribed(fetch)
    .listen("ServerProvisionUpdated", fetch)
    .listen(".rowcast.resync", fetch);
}

export function site(echo, app, id) {
  const fetch = () => app.fetchSite(id);
  echo
    .private(`sites.${id}`)
    .subscribed(fetch)
    .listen("ServerSiteUpdated", fetch)
    .listen(".rowcast.resync", fetch);
}

export function task(echo, app, id) {
  const fetch = () => app.fetchTask(id);
  echo
    .private(`tasks.${id}`)
    .subscribed(fetch)
    .listen("TaskCompletedEvent", ({ task }) => app.showTask(task))
    .listen(".rowcast.resync", fetch);
}
