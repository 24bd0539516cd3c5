//! Pages that listen, many in one process: what pusher-js says over its WebSocket, and no more than that.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{sockudo::Sockudo, wait::SOON};

const CHANNELS_PER_SOCKET: usize = 100;
/// <https://www.rfc-editor.org/rfc/rfc6455#section-5.2>: a whole message, by its opcode.
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

pub(crate) struct Pages {
    waiting: watch::Receiver<Waiting>,
    _sockets: JoinSet<()>,
}

struct Waiting {
    /// Channels on which nothing was heard yet.
    channels: usize,
    /// When another one heard.
    last: Instant,
}

impl Pages {
    /// Each has joined its channel.
    pub(crate) async fn open(sockudo: &Sockudo, channels: &[String]) -> Self {
        let waiting = Waiting { channels: channels.len(), last: Instant::now() };
        let (waiting_tx, waiting) = watch::channel(waiting);
        let mut sockets = JoinSet::new();
        for channels in channels.chunks(CHANNELS_PER_SOCKET) {
            let mut socket = Socket::open(sockudo).await;
            for channel in channels {
                socket.join(channel).await;
            }
            let unheard = channels.iter().cloned().collect();
            sockets.spawn(socket.listen(unheard, waiting_tx.clone()));
        }
        Self { waiting, _sockets: sockets }
    }

    pub(crate) fn have_heard_nothing(&self, of: usize) -> bool {
        self.waiting.borrow().channels == of
    }

    /// Waits until each has heard something, and returns when the last one did.
    pub(crate) async fn have_all_heard(&self, deadline: Duration) -> Instant {
        let mut waiting = self.waiting.clone();
        let all = waiting.wait_for(|waiting| waiting.channels == 0);
        match timeout(deadline, all).await {
            Ok(all) => all.expect("the sockets are open").last,
            Err(_) => {
                panic!("{} pages heard nothing within {deadline:?}", self.waiting.borrow().channels)
            }
        }
    }
}

struct Socket(BufReader<TcpStream>);

impl Socket {
    async fn open(sockudo: &Sockudo) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", sockudo.port)).await;
        let mut socket = Self(BufReader::new(stream.expect("Sockudo listens")));
        let head = format!(
            "GET /app/{}?protocol=7&client=js&version=8.4.0 HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: cm93Y2FzdCBiZW5jaCBwYQ==\r\n\r\n",
            Sockudo::KEY,
            sockudo.port
        );
        socket.0.write_all(head.as_bytes()).await.expect("Sockudo reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.0.read_u8().await.expect("it answers"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(socket.message().await["event"], "pusher:connection_established");
        socket
    }

    async fn join(&mut self, channel: &str) {
        let message = json!({ "event": "pusher:subscribe", "data": { "channel": channel } });
        self.send(TEXT, message.to_string().as_bytes()).await;
        let answer = timeout(SOON, self.message()).await.expect("it answers in time");
        assert_eq!(answer["event"], "pusher_internal:subscription_succeeded", "{answer}");
    }

    async fn listen(mut self, mut unheard: HashSet<String>, waiting: watch::Sender<Waiting>) {
        loop {
            let message = self.message().await;
            let channel = message["channel"].as_str().unwrap_or_default();
            if unheard.remove(channel) {
                waiting.send_modify(|waiting| {
                    *waiting = Waiting { channels: waiting.channels - 1, last: Instant::now() };
                });
            }
        }
    }

    async fn message(&mut self) -> Value {
        loop {
            let opcode = self.0.read_u8().await.expect("it stays open");
            let len = match self.0.read_u8().await.expect("a length") {
                126 => usize::from(self.0.read_u16().await.expect("a length")),
                len if len < 126 => usize::from(len),
                len => panic!("no message is that long: {len}"),
            };
            let mut payload = vec![0; len];
            self.0.read_exact(&mut payload).await.expect("a whole message");
            match opcode {
                TEXT => return serde_json::from_slice(&payload).expect("it speaks JSON"),
                PING => self.send(PONG, &payload).await,
                opcode => panic!("opcode {opcode:#x}: {}", String::from_utf8_lossy(&payload)),
            }
        }
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let len = u8::try_from(payload.len()).ok().filter(|len| *len < 126);
        let len = len.expect("what a page says is short");
        // A client has to mask what it sends. A mask of zeros leaves it as it is.
        let mut frame = vec![opcode, 0x80 | len, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.expect("Sockudo reads");
    }
}
