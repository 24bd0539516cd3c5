//! What a process prints, line by line, as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

/// One output of a process. Clones share it.
#[derive(Clone)]
pub struct Lines {
    printed: watch::Receiver<Printed>,
}

#[derive(Default)]
struct Printed {
    lines: Vec<Arc<str>>,
    closed: bool,
}

impl Lines {
    /// Reads until the end on a thread of its own: processes that tests share outlive the runtime of each.
    pub fn of(output: impl Read + Send + 'static) -> Self {
        let (printed_tx, printed) = watch::channel(Printed::default());
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while let Ok(1..) = output.read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).into();
                printed_tx.send_modify(|printed| printed.lines.push(text));
                line.clear();
            }
            printed_tx.send_modify(|printed| printed.closed = true);
        });
        Self { printed }
    }

    pub fn all(&self) -> Vec<Arc<str>> {
        self.printed.borrow().lines.clone()
    }

    /// The number of lines so far, for `find_after`.
    pub fn mark(&self) -> usize {
        self.printed.borrow().lines.len()
    }

    /// The first line that contains `text`, waited for. Panics with what was printed instead.
    pub async fn wait_for(&self, deadline: Duration, text: &str) -> Arc<str> {
        self.find_after(0, deadline, text, |line| line.contains(text).then(|| line.into())).await
    }

    /// Asks about each line from `mark` on until the answer is `Some`, and returns that.
    pub async fn find_after<T>(
        &self,
        mark: usize,
        deadline: Duration,
        what: &str,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let mut printed = self.printed.clone();
        let mut seen = mark;
        let mut found = None;
        let search = printed.wait_for(|printed| {
            found = printed.lines.iter().skip(seen).find_map(|line| find(line));
            seen = seen.max(printed.lines.len());
            found.is_some() || printed.closed
        });
        let ended = match timeout(deadline, search).await {
            Ok(_) => "before the output ended".to_owned(),
            Err(_) => format!("within {deadline:?}"),
        };
        found
            .unwrap_or_else(|| panic!("no line {ended}: {what}\nlines:\n{}", self.all().join("\n")))
    }

    /// Waits until the process, and all that inherited its output, has closed it.
    pub async fn closed(&self, deadline: Duration) {
        let mut printed = self.printed.clone();
        let closed = timeout(deadline, printed.wait_for(|printed| printed.closed)).await;
        assert!(closed.is_ok(), "the output is still open after {deadline:?}");
    }
}
