use std::fmt;
use std::io::{self, Write};

use crate::notification::{ChannelClass, ChannelName, EventName, Notification};

use super::record;

/// Prints each notification on one line instead of sending it.
pub struct Stdout {
    out: Box<dyn Write + Send>,
    format: Format,
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Time, entity, id and action, the event, the channels, and the Echo line
    /// that hears it on each.
    Human,
    Json,
}

impl Stdout {
    pub fn new(out: Box<dyn Write + Send>, format: Format) -> Stdout {
        Stdout { out, format, line: Vec::new() }
    }

    pub(super) fn print(&mut self, notification: &Notification) -> io::Result<()> {
        self.line.clear();
        match self.format {
            Format::Human => self.line.extend_from_slice(human(notification).as_bytes()),
            Format::Json => json(&mut self.line, notification),
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl fmt::Debug for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdout").field("format", &self.format).finish_non_exhaustive()
    }
}

fn human(notification: &Notification) -> String {
    let Notification { entity, id, action, event, channels, at, .. } = notification;
    let at = at.to_string();
    let time = at.get(11..23).unwrap_or(&at);
    let mut line = format!("{time}  {entity} {id} {action}  {event}");
    if let Some(refusal) = &notification.refusal {
        line.push_str(&format!("  refused: {refusal}"));
    } else {
        let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
        line.push_str(&format!("  on {}", names.join(", ")));
        for channel in channels {
            line.push_str(&format!("  {}", echo(channel, event)));
        }
    }
    // A row's value must not command the terminal.
    line.replace(char::is_control, "\u{fffd}")
}

fn json(line: &mut Vec<u8>, notification: &Notification) {
    record::write_open(line, notification, &notification.channels);
    record::write_field(line, "partial", &notification.partial);
    match &notification.refusal {
        Some(refusal) => record::write_field(line, "refused", &refusal.to_string()),
        None => {
            let echo = |channel| echo(channel, &notification.event);
            let lines: Vec<String> = notification.channels.iter().map(echo).collect();
            record::write_field(line, "echo", &lines);
        }
    }
    line.push(b'}');
}

/// The line of Laravel Echo that hears `event` on `channel`.
fn echo(channel: &ChannelName, event: &EventName) -> String {
    const PREFIXED: &str = "a class begins with its prefix";
    let name = channel.as_str();
    let (method, name) = match channel.class() {
        ChannelClass::Public | ChannelClass::Cache => ("channel", name),
        ChannelClass::Private | ChannelClass::PrivateCache => {
            ("private", name.strip_prefix("private-").expect(PREFIXED))
        }
        ChannelClass::Encrypted | ChannelClass::EncryptedCache => {
            ("encryptedPrivate", name.strip_prefix("private-encrypted-").expect(PREFIXED))
        }
        ChannelClass::Presence | ChannelClass::PresenceCache => {
            ("join", name.strip_prefix("presence-").expect(PREFIXED))
        }
    };
    // Echo puts App\Events\ before a name and makes its dots backslashes, unless
    // the name begins with a dot.
    let listened = match event.as_str().strip_prefix(r"App\Events\") {
        Some(class) if !class.contains('.') => class.replace('\\', "."),
        _ => format!(".{}", event.as_str().replace('\\', r"\\").replace('\'', r"\'")),
    };
    format!("Echo.{method}('{name}').listen('{listened}', …)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::tests::notification;
    use crate::notification::Refusal;

    #[test]
    fn the_echo_line_is_the_one_that_hears_the_event() {
        for (channel, event, line) in [
            ("posts", "PostUpdated", "Echo.channel('posts').listen('.PostUpdated', …)"),
            ("private-posts.42", "x", "Echo.private('posts.42').listen('.x', …)"),
            ("private-cache-a", "x", "Echo.private('cache-a').listen('.x', …)"),
            ("presence-room.1", "x", "Echo.join('room.1').listen('.x', …)"),
            ("private-encrypted-a", "x", "Echo.encryptedPrivate('a').listen('.x', …)"),
            ("posts", r"App\Events\PostUpdated", "Echo.channel('posts').listen('PostUpdated', …)"),
            ("posts", r"App\Events\Blog\Post", "Echo.channel('posts').listen('Blog.Post', …)"),
            ("posts", r"Domain\Post's", r"Echo.channel('posts').listen('.Domain\\Post\'s', …)"),
        ] {
            let channel = channel.parse().expect("a channel");
            let event = event.parse().expect("an event");
            assert_eq!(echo(&channel, &event), line);
        }
    }

    #[test]
    fn a_notification_prints_on_one_line_for_people_and_for_programs() {
        let mut notification = notification("post", 42, &["private-posts.42", "posts"]);
        assert_eq!(
            human(&notification),
            "00:00:00.000  post 42 updated  PostUpdated  on private-posts.42, posts  \
             Echo.private('posts.42').listen('.PostUpdated', …)  \
             Echo.channel('posts').listen('.PostUpdated', …)"
        );
        notification.id = "\"\u{9b}31m\"".into();
        assert!(human(&notification).contains("post \"\u{fffd}31m\" updated"));
        notification.id = "42".into();
        notification.refusal = Some(Refusal::Oversize { bytes: 9, limit: 8 });
        let mut line = Vec::new();
        json(&mut line, &notification);
        let object: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(object["refused"], "the payload has 9 bytes, and the endpoint takes 8");
        assert_eq!(object["id"], 42);
        assert_eq!(object["data"]["id"], 42);
    }
}
