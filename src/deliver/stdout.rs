use std::fmt;
use std::io::{self, Write};
use std::time::Instant;

use crate::change::Timestamp;
use crate::coalesce::Moment;
use crate::notification::{ChannelName, EventName, Handoff, LetGo, Notification, Resync};

use super::echo::echo_line;
use super::record;
use super::{Estimate, Tally};

/// Prints each notification on one line instead of sending it.
pub struct Stdout {
    out: Box<dyn Write + Send>,
    format: Format,
    line: Vec<u8>,
    tally: Option<Box<Tally>>,
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
        Stdout { out, format, line: Vec::new(), tally: None }
    }

    /// Counts what it prints, too.
    pub fn counting(self, tally: Tally) -> Stdout {
        Stdout { tally: Some(Box::new(tally)), ..self }
    }

    /// A session begins.
    pub(super) fn begin(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.begin(Instant::now());
        }
    }

    pub(super) fn count(&mut self, handoff: Handoff) {
        if let Some(tally) = &mut self.tally {
            tally.take(handoff, Moment { now: Instant::now(), wall: Timestamp::now() });
        }
    }

    pub(super) fn estimate(&mut self) -> Option<Estimate> {
        self.tally.as_mut()?.estimate(Instant::now())
    }

    /// Its notifications, and what nobody is told of where it was let go.
    pub(super) fn print_all(&mut self, handoff: &Handoff) -> io::Result<()> {
        let mut let_go = handoff.let_go.iter().peekable();
        for (place, notification) in handoff.notifications.iter().enumerate() {
            while let Some(let_go) = let_go.next_if(|let_go| let_go.place <= place) {
                self.print_let_go(let_go)?;
            }
            self.print(notification)?;
        }
        let_go.try_for_each(|let_go| self.print_let_go(let_go))
    }

    fn print_let_go(&mut self, let_go: &LetGo) -> io::Result<()> {
        self.line.clear();
        match self.format {
            Format::Human => self.line.extend_from_slice(human_let_go(let_go).as_bytes()),
            Format::Json => record::write_let_go(&mut self.line, let_go),
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    fn print(&mut self, notification: &Notification) -> io::Result<()> {
        self.line.clear();
        match self.format {
            Format::Human => self.line.extend_from_slice(human(notification).as_bytes()),
            Format::Json => json(&mut self.line, notification),
        }
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    /// A line for a resync: which rule, why, and where it would be told.
    pub(super) fn print_resync(&mut self, resync: &Resync) -> io::Result<()> {
        self.line.clear();
        match self.format {
            Format::Human => self.line.extend_from_slice(human_resync(resync).as_bytes()),
            Format::Json => record::write_resync(&mut self.line, resync),
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
    let Notification { terms, id, event, channels, at, .. } = notification;
    let (entity, action) = (&terms.entity, notification.action_name());
    let time = time_of(*at);
    let mut line = match terms.is_of_broadcasts() {
        true => format!("{time}  {action}  {event}"),
        false => format!("{time}  {entity} {id} {action}  {event}"),
    };
    if let Some(refusal) = &notification.refusal {
        line.push_str(&format!("  refused: {refusal}"));
    } else {
        let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
        line.push_str(&format!("  on {}", names.join(", ")));
        if let Some(socket_id) = &notification.socket_id {
            line.push_str(&format!("  not to {socket_id}"));
        }
        for heard in channels.iter().filter_map(|channel| echo_line(channel, event)) {
            line.push_str(&format!("  {heard}"));
        }
    }
    // A row's value must not command the terminal.
    line.replace(char::is_control, "\u{fffd}")
}

fn human_resync(resync: &Resync) -> String {
    let Resync { terms, reason, at, .. } = resync;
    let events: Vec<&str> = terms.resync_events.iter().map(EventName::as_str).collect();
    let channels = terms.channels.iter().map(|pattern| match pattern.constant() {
        Some(channel) => channel.to_string(),
        None => format!("occupied {}…", pattern.prefix()),
    });
    let channels: Vec<String> = channels.collect();
    format!(
        "{}  {} resync {}  {}  on {}  by rule {}",
        time_of(*at),
        terms.entity,
        reason.name(),
        events.join(", "),
        channels.join(", "),
        terms.rule,
    )
}

fn human_let_go(let_go: &LetGo) -> String {
    let LetGo { at, table, id, action, rule, why, .. } = let_go;
    let time = time_of(*at);
    let by = rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
    let line = format!("{time}  {table} {id} {action}  not told{by}: {why}");
    line.replace(char::is_control, "\u{fffd}")
}

/// Of the day.
fn time_of(at: Timestamp) -> String {
    let at = at.to_string();
    at.get(11..23).unwrap_or(&at).to_owned()
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
    use std::io::{Read, Seek};

    use super::*;
    use crate::change::TableName;
    use crate::deliver::tests::notification;
    use crate::notification::{
        Action, Audience, ChannelClass, ChannelPattern, Part, Reason, Refusal, Terms, Why,
    };

    #[test]
    fn a_notification_prints_on_one_line_for_people_and_for_programs() {
        let mut notification = notification("post", 42, &["private-posts.42", "posts"]);
        assert_eq!(
            human(&notification),
            "00:00:00.000  post 42 updated  PostUpdated  on private-posts.42, posts  \
             Echo.private('posts.42').listen('.PostUpdated', …)  \
             Echo.channel('posts').listen('.PostUpdated', …)"
        );
        notification.socket_id = Some("12.34".into());
        assert!(human(&notification).contains("on private-posts.42, posts  not to 12.34  Echo"));
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
        assert_eq!(object["socket_id"], "12.34");
    }

    #[test]
    fn what_nobody_is_told_of_stands_where_it_was_let_go() {
        let let_go = |place: usize, rule: Option<&str>| LetGo {
            place,
            at: Timestamp::from_unix_micros(0),
            table: TableName::new("public", "posts"),
            id: "\"\u{9b}7\"".into(),
            action: Action::Updated,
            rule: rule.map(Into::into),
            why: Why::NoRule,
        };
        let handoff = Handoff {
            notifications: vec![notification("post", 1, &["a"]), notification("post", 2, &["a"])],
            let_go: vec![let_go(1, Some("posts")), let_go(2, None)],
            ..Handoff::default()
        };
        let printed = |format| {
            let (mut file, mut text) = (tempfile::tempfile().expect("a file"), String::new());
            let out = Box::new(file.try_clone().expect("the same file"));
            Stdout::new(out, format).print_all(&handoff).expect("it is printed");
            file.rewind().expect("a file");
            file.read_to_string(&mut text).expect("it is text");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let human = printed(Format::Human);
        assert_eq!(human.len(), 4);
        assert_eq!(
            human[1],
            "00:00:00.000  public.posts \"\u{fffd}7\" updated  not told by rule posts: no rule \
             takes the table"
        );
        assert!(human[3].contains("updated  not told: no rule takes the table"), "{}", human[3]);
        let last: serde_json::Value =
            serde_json::from_str(&printed(Format::Json)[3]).expect("JSON");
        let expected = serde_json::json!({
            "at": "1970-01-01T00:00:00.000000Z", "table": "public.posts", "id": "\u{9b}7",
            "action": "updated", "rule": null, "why": "table", "text": "no rule takes the table",
        });
        assert_eq!(last, expected);
    }

    #[test]
    fn a_resync_says_which_rule_why_and_where() {
        let text = |text: &str| Part::Text(text.into());
        let mut terms = Terms::plain("posts", "post");
        terms.channels = vec![
            ChannelPattern::new(vec![text("posts")], ChannelClass::Public),
            ChannelPattern::new(
                vec![text("private-posts."), Part::Value { dotted: false }],
                ChannelClass::Private,
            ),
        ];
        let resync = Resync {
            terms: terms.into(),
            reason: Reason::Truncate,
            count: None,
            audience: Audience::All,
            position: None,
            at: Timestamp::from_unix_micros(42),
        };
        assert_eq!(
            human_resync(&resync),
            "00:00:00.000  post resync truncate  rowcast.resync  on posts, occupied \
             private-posts.…  by rule posts"
        );
        let mut line = Vec::new();
        record::write_resync(&mut line, &resync);
        let object: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(object["action"], "resync");
        assert_eq!(object["reason"], "truncate");
        assert_eq!(object["channels"], serde_json::json!(["posts"]));
        assert_eq!(object["prefixes"], serde_json::json!(["private-posts."]));
    }
}
