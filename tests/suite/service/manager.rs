//! In systemd's place: what a service tells its manager.

use std::{
    io,
    os::unix::net::UnixDatagram,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{
    scratch,
    wait::{SOON, eventually},
};

/// Without a sign of life for so long the service would be ended.
const WATCHDOG: Duration = Duration::from_secs(2);

pub(crate) struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
    told: Mutex<Vec<String>>,
    /// How many of those a test has asked for already.
    seen: Mutex<usize>,
}

impl Manager {
    pub(crate) fn listen() -> Manager {
        let folder = scratch::folder("manager");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("it is a socket");
        Manager { folder, socket, told: Mutex::default(), seen: Mutex::default() }
    }

    /// What the service finds in its environment.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        let socket = self.folder.path().join("notify").display().to_string();
        [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())]
    }

    /// Each message so far: lines of `NAME=value`.
    pub(crate) fn told(&self) -> Vec<String> {
        let mut told = lock(&self.told);
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(length) => told.push(String::from_utf8_lossy(&message[..length]).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return told.clone(),
                Err(error) => panic!("the socket is ours: {error}"),
            }
        }
    }

    /// The first message with `text`.
    pub(crate) async fn wait_for(&self, text: &str) -> String {
        *lock(&self.seen) = 0;
        self.wait_for_another(text).await
    }

    /// The first message with `text` after the one that was waited for last.
    pub(crate) async fn wait_for_another(&self, text: &str) -> String {
        let from = *lock(&self.seen);
        let what = format!("{text} is told");
        let (index, message) = eventually(SOON, &what, async || {
            let told = self.told().into_iter().enumerate().skip(from);
            told.into_iter().find(|(_, message)| message.contains(text))
        })
        .await;
        *lock(&self.seen) = index + 1;
        message
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
