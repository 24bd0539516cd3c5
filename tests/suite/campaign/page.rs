//! Pages as browsers show them: a page joins its channel, fetches after that, and fetches again whenever it hears
//! something. It never waits, so that a message that comes before its change is visible leaves the page stale.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::ledger::{Micros, now};
use super::shop::View;
use crate::harness::wait::eventually;

/// How many pages fetch at once.
const CONNECTIONS: usize = 8;

/// The application's API, which pages fetch from.
pub(super) struct Api {
    url: String,
    clients: Vec<tokio::sync::Mutex<Option<Client>>>,
    next: AtomicUsize,
}

impl Api {
    pub(super) fn new(url: String) -> Arc<Self> {
        let clients = (0..CONNECTIONS).map(|_| tokio::sync::Mutex::default()).collect();
        Arc::new(Self { url, clients, next: AtomicUsize::new(0) })
    }

    /// What the view shows now. As a browser does, it asks again if it gets no answer.
    pub(super) async fn fetch(&self, view: &View) -> String {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let mut client = self.clients[turn].lock().await;
        loop {
            match self.try_fetch(&mut client, view).await {
                Ok(rows) => return rows,
                Err(_) => {
                    *client = None;
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn try_fetch(
        &self,
        client: &mut Option<Client>,
        view: &View,
    ) -> Result<String, tokio_postgres::Error> {
        if client.is_none() {
            let (connected, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
            tokio::spawn(connection);
            *client = Some(connected);
        }
        let client = client.as_ref().expect("it was just made");
        // One round trip: a browser's request would be at the database no sooner.
        let messages = client.simple_query(&view.query).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.expect("an aggregate has one row").to_owned())
    }
}

#[derive(Clone, Default)]
struct Shown {
    /// How many messages had been heard when what is shown was asked for. `None` before the first fetch.
    heard: Option<u64>,
    rows: String,
}

struct Page {
    view: View,
    joined: Micros,
    heard: watch::Sender<u64>,
    shown: watch::Receiver<Shown>,
    living: JoinHandle<()>,
}

impl Page {
    fn open(view: View, api: Arc<Api>) -> Self {
        let heard = watch::Sender::new(0);
        let (shown_tx, shown) = watch::channel(Shown::default());
        let living = tokio::spawn(live(view.clone(), api, heard.subscribe(), shown_tx));
        Self { view, joined: now(), heard, shown, living }
    }

    fn hear(&self) {
        self.heard.send_modify(|heard| *heard += 1);
    }

    fn is_settled(&self) -> bool {
        self.shown.borrow().heard == Some(*self.heard.borrow())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.living.abort();
    }
}

async fn live(
    view: View,
    api: Arc<Api>,
    mut heard: watch::Receiver<u64>,
    shown: watch::Sender<Shown>,
) {
    loop {
        let before = *heard.borrow_and_update();
        let rows = api.fetch(&view).await;
        shown.send_replace(Shown { heard: Some(before), rows });
        if heard.changed().await.is_err() {
            return;
        }
    }
}

/// All pages, by their channels.
#[derive(Default)]
pub(super) struct Audience {
    pages: Mutex<HashMap<String, Vec<Page>>>,
}

impl Audience {
    /// The page has joined, and fetches.
    pub(super) fn join(&self, view: View, api: &Arc<Api>) {
        let page = Page::open(view, api.clone());
        self.pages().entry(page.view.channel.clone()).or_default().push(page);
    }

    pub(super) fn leave(&self, view: &View) {
        let mut pages = self.pages();
        if let Some(on_channel) = pages.get_mut(&view.channel) {
            on_channel.retain(|page| page.view != *view);
        }
        pages.retain(|_, on_channel| !on_channel.is_empty());
    }

    /// The channels that are joined.
    pub(super) fn channels(&self) -> Vec<String> {
        self.pages().keys().cloned().collect()
    }

    /// Since when each channel has had a page that is still open.
    pub(super) fn joined(&self) -> HashMap<String, Micros> {
        let pages = self.pages();
        let since = |pages: &Vec<Page>| pages.iter().map(|page| page.joined).min();
        pages.iter().filter_map(|(channel, pages)| Some((channel.clone(), since(pages)?))).collect()
    }

    /// A message was published on the channel.
    pub(super) fn hear(&self, channel: &str) {
        if let Some(pages) = self.pages().get(channel) {
            pages.iter().for_each(Page::hear);
        }
    }

    /// Waits until every page has fetched what it was told to fetch, then says which of them do not show what is
    /// there.
    pub(super) async fn stale(&self, api: &Api) -> Vec<String> {
        eventually(Duration::from_secs(30), "every page has fetched", async || {
            self.pages().values().flatten().all(Page::is_settled).then_some(())
        })
        .await;
        let shown: Vec<(View, Shown)> = self
            .pages()
            .values()
            .flatten()
            .map(|page| (page.view.clone(), page.shown.borrow().clone()))
            .collect();
        let mut stale = Vec::new();
        for (view, Shown { heard, rows }) in shown {
            let there = api.fetch(&view).await;
            if rows != there {
                let heard = heard.unwrap_or_default();
                let difference = difference(&rows, &there);
                stale.push(format!(
                    "the page on {} is stale after {heard} messages: {difference}",
                    view.channel
                ));
            }
        }
        stale
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<String, Vec<Page>>> {
        self.pages.lock().expect("nobody panics while he holds the pages")
    }
}

fn difference(shown: &str, there: &str) -> String {
    let missing = |from: &str, of: &str| {
        let of: Vec<&str> = of.split(' ').collect();
        let missing = from.split(' ').filter(|row| !of.contains(row) && !row.is_empty());
        missing.take(10).collect::<Vec<_>>().join(" ")
    };
    format!("shows [{}] instead of [{}]", missing(shown, there), missing(there, shown))
}
