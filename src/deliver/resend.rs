use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::change::{Position, Timestamp};
use crate::notification::{
    Action, ChannelName, EventName, Handoff, Notification, Payload, Reason, Terms,
};

use super::rejected::{self, RejectedError};

/// What stands in a rejected file, to be sent once more. The number of a line is its
/// position.
#[derive(Debug)]
pub struct Resend {
    path: PathBuf,
    file: File,
    /// The whole lines that it had when it was opened.
    text: String,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    /// Where it ends in the text, with its line break.
    end: usize,
    /// `None`: it says nothing that could be sent.
    notification: Option<Notification>,
}

/// Of a line what is sent.
#[derive(Deserialize)]
struct Record<'a> {
    at: String,
    rule: String,
    event: String,
    channels: Vec<String>,
    entity: String,
    #[serde(borrow)]
    id: &'a RawValue,
    action: String,
    #[serde(borrow)]
    data: &'a RawValue,
    socket_id: Option<String>,
}

/// In one handoff: what is confirmed together.
const LINES: usize = 50;

impl Resend {
    /// # Errors
    /// If it is not there, or cannot be read.
    pub fn open(path: &Path) -> Result<Resend, RejectedError> {
        Resend::read(path).map_err(|source| RejectedError::new(path, source))
    }

    fn read(path: &Path) -> io::Result<Resend> {
        let path = path.canonicalize()?;
        let mut file = File::options().read(true).write(true).open(&path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // Somebody is writing the rest.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        let mut terms = HashMap::new();
        let (mut lines, mut end) = (Vec::new(), 0);
        for (line, number) in text.split_inclusive('\n').zip(1..) {
            end += line.len();
            let notification = notification(line, Position::new(number), &mut terms);
            lines.push(Line { end, notification });
        }
        Ok(Resend { path, file, text, lines })
    }

    /// How many notifications there are.
    pub fn count(&self) -> usize {
        self.lines.iter().filter(|line| line.notification.is_some()).count()
    }

    /// How many lines say nothing that could be sent: no channel, or no notification
    /// at all. They stay.
    pub fn left_out(&self) -> usize {
        self.lines.len() - self.count()
    }

    /// All of it, in order.
    pub fn handoffs(&self) -> Vec<Handoff> {
        let handoff = |(index, lines): (usize, &[Line])| Handoff {
            notifications: lines.iter().filter_map(|line| line.notification.clone()).collect(),
            reached: Some(Position::new((index * LINES + lines.len()) as u64)),
            ..Handoff::default()
        };
        self.lines.chunks(LINES).enumerate().map(handoff).collect()
    }

    /// Takes out the lines up to `delivered` that were sent. What was written behind
    /// them meanwhile stays, with what was refused again. Returns how many lines of
    /// the former stay.
    ///
    /// # Errors
    /// If the file cannot be written, or is not there any more: then all of it stays.
    pub fn take_out(mut self, delivered: Option<Position>) -> Result<usize, RejectedError> {
        let path = self.path.clone();
        self.try_take_out(delivered).map_err(|source| RejectedError::new(&path, source))
    }

    fn try_take_out(&mut self, delivered: Option<Position>) -> io::Result<usize> {
        let delivered = delivered.map_or(0, Position::value);
        let mut rest = String::new();
        let (mut begin, mut stay) = (0, 0);
        for (line, number) in self.lines.iter().zip(1..) {
            if line.notification.is_none() || number > delivered {
                rest.push_str(&self.text[begin..line.end]);
                stay += 1;
            }
            begin = line.end;
        }
        if stay == self.lines.len() {
            return Ok(stay);
        }

        rejected::lock(&self.file);
        let path = self.path_now()?;
        let mut rest = rest.into_bytes();
        self.file.seek(SeekFrom::Start(self.text.len() as u64))?;
        self.file.read_to_end(&mut rest)?;
        // Replaced at once, so that a crash leaves the one or the other.
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut written = tempfile::NamedTempFile::new_in(folder)?;
        written.write_all(&rest)?;
        let metadata = self.file.metadata()?;
        if written.as_file().metadata()?.uid() != metadata.uid() {
            fchown(written.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
        }
        written.as_file().sync_all()?;
        if !rejected::is_at(&self.file, &path)? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another file is there now"));
        }
        written.persist(&path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()?;
        Ok(stay)
    }

    /// It may have become full meanwhile, and been set aside.
    fn path_now(&self) -> io::Result<PathBuf> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        let paths = [self.path.clone(), aside.into()];
        for path in paths {
            if rejected::is_at(&self.file, &path)? {
                return Ok(path);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "another file is there now"))
    }
}

/// `None` if nothing of it could be sent.
fn notification(
    line: &str,
    position: Position,
    known: &mut HashMap<(String, String), Arc<Terms>>,
) -> Option<Notification> {
    let record: Record<'_> = serde_json::from_str(line).ok()?;
    let channels: Result<Vec<ChannelName>, _> =
        record.channels.iter().map(|name| name.parse()).collect();
    let channels = channels.ok().filter(|channels| !channels.is_empty())?;
    let event: EventName = record.event.parse().ok()?;
    let action = Action::ALL.into_iter().find(|action| action.name() == record.action);
    let key = (record.rule, record.entity);
    let terms = known.entry(key).or_insert_with_key(|(rule, entity)| {
        Arc::new(Terms {
            // Pages were told to fetch when it was refused first.
            resync_events: Vec::new(),
            on: Action::ALL.map(|_| record.action != "broadcast"),
            ..Terms::plain(rule, entity)
        })
    });
    Some(Notification {
        terms: terms.clone(),
        shares: Vec::new(),
        action: action.unwrap_or(Action::Updated),
        id: record.id.get().into(),
        event,
        event_index: 0,
        channels,
        payload: Payload::Own(data(record.data).into()),
        socket_id: record.socket_id.map(Into::into),
        count: 1,
        position,
        at: at(&record.at),
        resync: (record.action == "resync").then_some(Reason::Replay),
        refusal: None,
    })
}

/// What spans lines stands there as a string.
fn data(raw: &RawValue) -> String {
    let text = serde_json::from_str::<String>(raw.get()).ok();
    text.filter(|text| text.contains(['\n', '\r'])).unwrap_or_else(|| raw.get().to_owned())
}

fn at(text: &str) -> Timestamp {
    let moment = text.parse::<jiff::Timestamp>();
    moment.map_or_else(
        |_| Timestamp::now(),
        |moment| Timestamp::from_unix_micros(moment.as_microsecond()),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::lane::Debt;
    use super::super::rejected::Rejected;
    use super::super::{ByteSize, RejectedFile};
    use super::*;
    use crate::deliver::tests::notification;

    fn rejected(id: u64) -> Rejected {
        let notification = notification("post", id, &["private-posts", "posts"]);
        let channels = notification.channels.clone();
        let debt = Debt::Position(notification.position);
        Rejected { notification, channels, reason: "it was bad".to_owned(), debt }
    }

    fn ids(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).expect("reads");
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        text.lines().map(|text| line(text)["id"].as_u64().expect("a number")).collect()
    }

    #[test]
    fn what_was_refused_is_read_as_it_was_and_taken_out_once_it_is_delivered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        let mut file = RejectedFile::open(&path, RejectedFile::MAX).expect("opens");
        let all: Vec<Rejected> = (1..=120).map(rejected).collect();
        file.append(&all).expect("writes");

        let resend = Resend::open(&path).expect("opens");
        assert_eq!((resend.count(), resend.left_out()), (120, 0));
        let handoffs = resend.handoffs();
        let read: Vec<&Notification> = handoffs.iter().flat_map(|it| &it.notifications).collect();
        for (read, rejected) in read.iter().zip(&all) {
            let written = &rejected.notification;
            assert_eq!(read.data(), written.data());
            assert_eq!((&read.id, &read.event, read.at), (&written.id, &written.event, written.at));
            assert_eq!(read.channels, written.channels);
        }
        assert_eq!(handoffs.last().and_then(|it| it.reached), Some(Position::new(120)));

        // Another process goes on writing to the file that it has open.
        file.append(&[rejected(121)]).expect("writes");
        assert_eq!(resend.take_out(Some(Position::new(100))).expect("writes"), 20);
        assert_eq!(ids(&path), (101..=121).collect::<Vec<_>>());
        file.append(&[rejected(122)]).expect("writes");
        assert_eq!(ids(&path), (101..=122).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_became_full_meanwhile_is_found_where_it_was_set_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        let mut file = RejectedFile::open(&path, ByteSize::new(1000)).expect("opens");
        file.append(&[rejected(1), rejected(2)]).expect("writes");
        let resend = Resend::open(&path).expect("opens");
        file.append(&(3..=5).map(rejected).collect::<Vec<_>>()).expect("writes");
        let aside = folder.path().join("rejected.jsonl.1");
        let before = ids(&aside);
        assert_eq!(resend.take_out(Some(Position::new(1))).expect("writes"), 1);
        assert_eq!(ids(&aside), before[1..]);
    }

    #[test]
    fn what_says_nothing_that_could_be_sent_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        let text = "garbage\n{\"at\":\"x\",\"rule\":\"r\",\"event\":\"e\",\"channels\":[],\
                    \"entity\":\"e\",\"id\":1,\"action\":\"updated\",\"data\":{}}\nhalf a li";
        fs::write(&path, text).expect("writes");
        let resend = Resend::open(&path).expect("opens");
        assert_eq!((resend.count(), resend.left_out()), (0, 2));
        assert_eq!(resend.take_out(Some(Position::new(2))).expect("there"), 2);
        assert_eq!(fs::read_to_string(&path).expect("reads"), text);
    }
}
