use std::fmt;
use std::io::{self, Write};

use crate::notification::{ChannelName, Notification};

use super::echo::echo_line;
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
    let Notification { id, event, channels, at, .. } = notification;
    let (entity, action) = (&notification.terms.entity, notification.action_name());
    let at = at.to_string();
    let time = at.get(11..23).unwrap_or(&at);
    let mut line = format!("{time}  {entity} {id} {action}  {event}");
    if let Some(refusal) = &notification.refusal {
        line.push_str(&format!("  refused: {refusal}"));
    } else {
        let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
        line.push_str(&format!("  on {}", names.join(", ")));
        for heard in channels.iter().filter_map(|channel| echo_line(channel, event)) {
            line.push_str(&format!("  {heard}"));
        }
    }
    // A row's value must not command the terminal.
    line.replace(char::is_control, "\u{fffd}")
}

fn json(line: &mut Vec<u8>, notification: &Notification) {
    record::write_open(line, notification, &notification.channels);
    record::write_field(line, "partial", &notification.is_partial());
    match &notification.refusal {
        Some(refusal) => record::write_field(line, "refused", &refusal.to_string()),
        None => {
            let echo = |channel| echo_line(channel, &notification.event);
            let lines: Vec<String> = notification.channels.iter().filter_map(echo).collect();
            record::write_field(line, "echo", &lines);
        }
    }
    line.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::tests::notification;
    use crate::notification::Refusal;

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
