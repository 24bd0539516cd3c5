//! A strict Pusher-compatible endpoint on the loopback. It speaks HTTP/1.1 by its own small parser and verifies
//! signatures by its own code, so that a mistake of rowcast's is not made twice. It can be told what to answer.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rowcast::deliver::pusher::{self, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::http::{self, Malformed, Request};
use super::port::Port;
use super::pusher::{App, Asked};

pub use super::pusher::{APP_ID, Event, KEY, SECRET};

/// Longer than what is away for long is waited for before it is tried again.
const DEADLINE: Duration = Duration::from_secs(60);

/// What to do instead of answering as the server would.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers so, and publishes nothing.
    Status { code: u16, body: String, headers: Vec<(&'static str, String)> },
    /// Publishes, but answers so.
    AcceptBut { code: u16, body: String },
    /// Never answers; the connection stays open until the client gives up.
    Hang,
    /// Closes the connection without an answer; nothing was published.
    CloseBeforeAnswer,
    /// Publishes, and closes the connection in the middle of the answer.
    CloseMidAnswer,
    /// Publishes, and resets the connection without an answer.
    AcceptThenReset,
    /// Answers late.
    Slow(Duration),
    /// Publishes, and answers once the endpoint is healed.
    Held,
}

impl Fault {
    pub fn status(code: u16) -> Fault {
        Fault::Status { code, body: String::new(), headers: Vec::new() }
    }

    pub fn body(code: u16, body: &str) -> Fault {
        Fault::Status { code, body: body.to_owned(), headers: Vec::new() }
    }

    pub fn redirect(code: u16, location: &str) -> Fault {
        Fault::Status {
            code,
            body: String::new(),
            headers: vec![("Location", location.to_owned())],
        }
    }

    pub fn retry_after(code: u16, value: &str) -> Fault {
        Fault::Status {
            code,
            body: String::new(),
            headers: vec![("Retry-After", value.to_owned())],
        }
    }
}

/// An event that was published.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub event: Event,
    /// When the first byte of its request was read.
    pub began: Instant,
}

/// A request for the occupied channels, other than to see whether the endpoint is well.
#[derive(Clone, Debug)]
pub struct Listed {
    pub prefix: String,
    /// When the first byte of its request was read.
    pub began: Instant,
}

/// What rowcast asks for to see whether the endpoint is well.
const PROBE: &str = "rowcast-probe";

const REPEATED_FOR: Duration = Duration::from_secs(2);

/// Chooses the fault for a request to publish by its events.
type Chooser = Box<dyn FnMut(&[Event]) -> Option<Fault> + Send>;

/// Hears of each event in the moment it is published.
type Hook = Box<dyn FnMut(&Accepted) + Send>;

#[derive(Default)]
struct State {
    requests: usize,
    accepted: Vec<Accepted>,
    resyncs: Vec<Accepted>,
    occupied: BTreeSet<String>,
    lists: Vec<Listed>,
    /// Of a prefix and an `info` what was listed last, and when.
    repeated: HashMap<(String, Option<String>), (Instant, Vec<String>)>,
    /// Each breach of the protocol, in words.
    breaches: Vec<String>,
    faults: VecDeque<Fault>,
    chooser: Option<Chooser>,
    hook: Option<Hook>,
    /// The answers to `GET channels` instead of the usual ones.
    probe: Option<Fault>,
    list: Option<Fault>,
    /// How many requests with this entity and id are on their way.
    in_progress: HashMap<String, usize>,
    most_at_once: usize,
    at_once: usize,
}

impl State {
    /// Sockudo repeats a list to who asks for the same, and any server may be one.
    fn list_of(&mut self, prefix: &str, info: Option<String>, server: Server) -> Vec<String> {
        let is_listed = |name: &&String| name.starts_with(prefix);
        let names: Vec<String> = self.occupied.iter().filter(is_listed).cloned().collect();
        if !matches!(server, Server::Sockudo | Server::Any) {
            return names;
        }
        self.repeated.retain(|_, (since, _)| since.elapsed() < REPEATED_FOR);
        let asked = (prefix.to_owned(), info);
        self.repeated.entry(asked).or_insert_with(|| (Instant::now(), names)).1.clone()
    }
}

struct Shared {
    app: App,
    state: Mutex<State>,
    changed: Notify,
    /// How often it was healed.
    healed: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }
}

pub struct Endpoint {
    port: Port,
    shared: Arc<Shared>,
    /// Changes when all connections that wait for a request are to be closed, as they are when this is dropped.
    away: watch::Sender<()>,
}

impl Endpoint {
    pub fn start(server: Server) -> Endpoint {
        Endpoint::start_with(server, "", true)
    }

    /// `prefix`: what stands before `/apps`, and whether it is signed.
    pub fn start_with(server: Server, prefix: &str, signs_prefix: bool) -> Endpoint {
        let shared = Arc::new(Shared {
            app: App { server, prefix: prefix.to_owned(), signs_prefix },
            state: Mutex::default(),
            changed: Notify::new(),
            healed: watch::Sender::new(0),
        });
        let mut endpoint = Endpoint { port: Port::closed(), shared, away: watch::Sender::new(()) };
        endpoint.come_back();
        endpoint
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        format!("http://{}{}", self.port.address(), self.shared.app.prefix)
    }

    /// `[pusher]` for this endpoint, without its first line.
    pub fn toml(&self) -> String {
        let server = match self.shared.app.server {
            Server::Any => "any",
            Server::Reverb => "reverb",
            Server::Pusher => "pusher",
            Server::Soketi => "soketi",
            Server::Sockudo => "sockudo",
            Server::LaravelWebsockets => "laravel-websockets",
        };
        format!(
            "url = '{}'\napp_id = '{APP_ID}'\nkey = '{KEY}'\nsecret = '{SECRET}'\nserver = '{server}'\n",
            self.url()
        )
    }

    pub fn config(&self) -> pusher::Config {
        toml::from_str(&self.toml()).expect("the endpoint's own configuration is valid")
    }

    /// The next request to publish meets this, the one after it the next.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// Every request to publish is asked for, once the queue of faults is empty.
    pub fn choose(&self, chooser: impl FnMut(&[Event]) -> Option<Fault> + Send + 'static) {
        self.shared.state().chooser = Some(Box::new(chooser));
    }

    /// `hook` hears of each event before its request is answered, as browsers may.
    pub fn on_accept(&self, hook: impl FnMut(&Accepted) + Send + 'static) {
        self.shared.state().hook = Some(Box::new(hook));
    }

    /// Answers as the server would from now on.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.faults.clear();
        state.chooser = None;
        state.probe = None;
        state.list = None;
        self.shared.healed.send_modify(|times| *times += 1);
    }

    /// What a request to see whether the endpoint is well meets from now on.
    pub fn probe_fault(&self, fault: Fault) {
        self.shared.state().probe = Some(fault);
    }

    /// What a request for occupied channels meets from now on.
    pub fn list_fault(&self, fault: Fault) {
        self.shared.state().list = Some(fault);
    }

    /// Somebody listens on these channels now, and on no others.
    pub fn occupy(&self, channels: impl IntoIterator<Item = impl Into<String>>) {
        self.shared.state().occupied = channels.into_iter().map(Into::into).collect();
    }

    /// Begins to keep anew what was accepted.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.accepted.clear();
        state.resyncs.clear();
    }

    /// The requests for occupied channels, in order.
    pub fn lists(&self) -> Vec<Listed> {
        self.shared.state().lists.clone()
    }

    /// Connections are refused until [`Endpoint::come_back`], and those without a request are closed.
    pub async fn refuse_connections(&mut self) {
        if self.port.close().await {
            self.away.send_replace(());
        }
    }

    pub fn come_back(&mut self) {
        let (shared, away) = (self.shared.clone(), self.away.subscribe());
        self.port.open(move |stream| {
            tokio::spawn(serve(stream, shared.clone(), away.clone()));
        });
    }

    /// What tells of changes one by one.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.shared.state().accepted.clone()
    }

    pub fn accepted_count(&self) -> usize {
        self.shared.state().accepted.len()
    }

    /// What tells to fetch everything again.
    pub fn resyncs(&self) -> Vec<Accepted> {
        self.shared.state().resyncs.clone()
    }

    /// Of all kinds, with and without an answer, except for resyncs and the lists that these need.
    pub fn requests(&self) -> usize {
        self.shared.state().requests
    }

    /// How many requests to publish were on their way at once at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.state().most_at_once
    }

    /// Waits until `condition` of what was accepted holds; it is asked after each request.
    pub async fn wait_for(&self, what: &str, condition: impl Fn(&[Accepted]) -> bool) {
        self.wait(what, |state| condition(&state.accepted)).await;
    }

    /// As [`Endpoint::wait_for`], of what tells to fetch everything again.
    pub async fn wait_for_resyncs(&self, what: &str, condition: impl Fn(&[Accepted]) -> bool) {
        self.wait(what, |state| condition(&state.resyncs)).await;
    }

    /// Waits until so many requests for occupied channels have come.
    pub async fn wait_for_lists(&self, count: usize) {
        self.wait(&format!("{count} lists"), |state| state.lists.len() >= count).await;
    }

    /// Waits until so many requests have come, as [`Endpoint::requests`] counts them.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait(&format!("{count} requests"), |state| state.requests >= count).await;
    }

    async fn wait(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.shared.state()) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
            let state = self.shared.state();
            panic!(
                "not within {DEADLINE:?}: {what}; {} requests, {} accepted, {} resyncs, breaches: {:?}",
                state.requests,
                state.accepted.len(),
                state.resyncs.len(),
                state.breaches
            );
        }
    }

    /// Panics if any request broke the protocol, the server's limits, or the order of an entity.
    pub fn assert_strict(&self) {
        let state = self.shared.state();
        assert!(state.breaches.is_empty(), "breaches: {:#?}", state.breaches);
    }

    pub fn breaches(&self) -> Vec<String> {
        self.shared.state().breaches.clone()
    }
}

/// One request: none of the servers keeps a connection open.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>, mut away: watch::Receiver<()>) {
    stream.set_nodelay(true).expect("an option of every socket");
    let read = tokio::select! {
        read = http::read(&mut stream) => read,
        _ = away.changed() => return,
    };
    let request = match read {
        Ok(Some(request)) => request,
        // The client gave up.
        Ok(None) => return,
        Err(Malformed(why)) => {
            shared.state().breaches.push(why.to_owned());
            return answer(&mut stream, 400, &[], why).await;
        }
    };
    let asked = shared.app.check(&request);
    shared.state().requests += usize::from(asked.as_ref().map_or(true, is_counted));
    match asked {
        Err(refusal) => {
            let Request { method, path, .. } = &request;
            shared.state().breaches.push(format!("{method} {path}: {refusal:?}"));
            answer(&mut stream, refusal.code, &[], &refusal.json()).await;
        }
        Ok(Asked::Channels { prefix, info }) => {
            list(&mut stream, &shared, prefix, info, request.began).await;
        }
        Ok(Asked::Publish(events)) => {
            publish(&mut stream, &shared, &request, events).await;
        }
    }
    shared.changed.notify_waiters();
}

fn is_counted(asked: &Asked) -> bool {
    match asked {
        Asked::Channels { prefix, .. } => prefix == PROBE,
        Asked::Publish(events) => !events.iter().all(Event::is_resync),
    }
}

async fn list(
    stream: &mut TcpStream,
    shared: &Shared,
    prefix: String,
    info: Option<String>,
    began: Instant,
) {
    let (fault, names) = {
        let mut state = shared.state();
        let names = state.list_of(&prefix, info, shared.app.server);
        let fault = match prefix == PROBE {
            true => state.probe.clone(),
            false => {
                state.lists.push(Listed { prefix, began });
                state.list.clone()
            }
        };
        (fault, names)
    };
    shared.changed.notify_waiters();
    if let Some(fault) = fault {
        return meet(stream, &fault).await;
    }
    let channels = match (shared.app.server, names.is_empty()) {
        // As PHP prints an empty object.
        (Server::Reverb, true) => serde_json::json!([]),
        _ => names.into_iter().map(|name| (name, serde_json::json!({}))).collect(),
    };
    answer(stream, 200, &[], &serde_json::json!({ "channels": channels }).to_string()).await;
}

async fn publish(stream: &mut TcpStream, shared: &Shared, request: &Request, events: Vec<Event>) {
    let mut in_progress = InProgress::enter(shared, &events);
    let mut healed = shared.healed.subscribe();
    let fault = {
        let mut state = shared.state();
        let queued = state.faults.pop_front();
        queued.or_else(|| state.chooser.as_mut().and_then(|choose| choose(&events)))
    };
    let is_published = match &fault {
        None | Some(Fault::Slow(_) | Fault::Held) => true,
        Some(Fault::AcceptBut { .. } | Fault::CloseMidAnswer | Fault::AcceptThenReset) => true,
        Some(Fault::Status { .. } | Fault::Hang | Fault::CloseBeforeAnswer) => false,
    };
    if is_published {
        let began = request.began;
        let state = &mut *shared.state();
        // What is sent to nobody, to see whether anything is taken, is told to nobody.
        for event in events.into_iter().filter(|event| event.channel != PROBE) {
            let views = match event.is_resync() {
                true => &mut state.resyncs,
                false => &mut state.accepted,
            };
            let accepted = Accepted { event, began };
            if let Some(hook) = &mut state.hook {
                hook(&accepted);
            }
            views.push(accepted);
        }
    }
    shared.changed.notify_waiters();
    let fault = match fault {
        Some(Fault::Hang) => {
            // The client gives it up, and its next request may be read before
            // the end of this one.
            in_progress.forget_subjects();
            return drop(stream.read_u8().await);
        }
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            None
        }
        Some(Fault::Held) => {
            tokio::select! {
                _ = healed.changed() => None,
                // The client gave up.
                _ = stream.read_u8() => return,
            }
        }
        fault => fault,
    };
    // The client's next request may begin before the answer is wholly written.
    drop(in_progress);
    match fault {
        None => answer(stream, 200, &[], "{}").await,
        Some(fault) => meet(stream, &fault).await,
    }
}

async fn meet(stream: &mut TcpStream, fault: &Fault) {
    match fault {
        Fault::Status { code, body, headers } => answer(stream, *code, headers, body).await,
        Fault::AcceptBut { code, body } => answer(stream, *code, &[], body).await,
        Fault::Hang | Fault::Held => drop(stream.read_u8().await),
        Fault::CloseBeforeAnswer => {}
        Fault::CloseMidAnswer => {
            let half = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{";
            // The client may be gone already.
            drop(stream.write_all(half).await);
        }
        Fault::AcceptThenReset => {
            stream.set_zero_linger().expect("an option of every TCP socket");
        }
        Fault::Slow(delay) => {
            tokio::time::sleep(*delay).await;
            answer(stream, 200, &[], "{}").await;
        }
    }
}

/// Writes an answer and closes. That the client may be gone is its own affair.
async fn answer(stream: &mut TcpStream, code: u16, headers: &[(&'static str, String)], body: &str) {
    let mut head = format!(
        "HTTP/1.1 {code} {code}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.push_str(body);
    if stream.write_all(head.as_bytes()).await.is_ok() {
        drop(stream.shutdown().await);
    }
}

/// Counts a request while it is on its way.
struct InProgress<'a> {
    shared: &'a Shared,
    subjects: Vec<String>,
}

impl<'a> InProgress<'a> {
    fn enter(shared: &'a Shared, events: &[Event]) -> InProgress<'a> {
        let mut subjects: Vec<String> = events.iter().filter_map(Event::subject).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut state = shared.state();
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
        for subject in &subjects {
            let count = state.in_progress.entry(subject.clone()).or_default();
            *count += 1;
            if *count > 1 {
                state.breaches.push(format!("{subject} is in two requests at once"));
            }
        }
        InProgress { shared, subjects }
    }

    fn forget_subjects(&mut self) {
        let mut state = self.shared.state();
        for subject in self.subjects.drain(..) {
            let count = state.in_progress.get_mut(&subject).expect("it was entered");
            *count -= 1;
            if *count == 0 {
                state.in_progress.remove(&subject);
            }
        }
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.forget_subjects();
        self.shared.state().at_once -= 1;
    }
}
