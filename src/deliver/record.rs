//! A notification as one JSON object on one line.

use serde::de::IgnoredAny;

use crate::notification::{ChannelName, ChannelPattern, LetGo, Notification, Resync};

/// Appends the notification as an object that is not closed yet, so that the
/// caller can add fields. `id` and `data` stand in it exactly as they were made.
pub(super) fn write_open(
    line: &mut Vec<u8>,
    notification: &Notification,
    channels: &[ChannelName],
) {
    line.extend_from_slice(b"{\"at\":");
    write_json(line, &notification.at.to_string());
    write_field(line, "rule", &*notification.terms.rule);
    write_field(line, "event", &notification.event);
    write_field(line, "channels", channels);
    write_field(line, "entity", &*notification.terms.entity);
    line.extend_from_slice(b",\"id\":");
    write_raw(line, &notification.id);
    write_field(line, "action", notification.action_name());
    line.extend_from_slice(b",\"data\":");
    write_raw(line, &notification.data());
    if let Some(socket_id) = &notification.socket_id {
        write_field(line, "socket_id", &**socket_id);
    }
    write_field(line, "position", &notification.position.value());
}

/// Appends the resync as an object, with the channels that it is told on
/// whatever the endpoint lists, and what the others begin with.
pub(super) fn write_resync(line: &mut Vec<u8>, resync: &Resync) {
    let Resync { terms, reason, count, at, .. } = resync;
    let channels: Vec<ChannelName> =
        terms.channels.iter().filter_map(ChannelPattern::constant).collect();
    let prefixes = terms.channels.iter().filter(|pattern| pattern.constant().is_none());
    let prefixes: Vec<&str> = prefixes.map(ChannelPattern::prefix).collect();
    line.extend_from_slice(b"{\"at\":");
    write_json(line, &at.to_string());
    write_field(line, "rule", &*terms.rule);
    write_field(line, "events", &terms.resync_events);
    write_field(line, "channels", &channels);
    write_field(line, "prefixes", &prefixes);
    write_field(line, "entity", &*terms.entity);
    write_field(line, "action", "resync");
    write_field(line, "reason", reason.name());
    write_field(line, "count", count);
    line.push(b'}');
}

/// Appends the change that nobody is told of as an object, with the option of the
/// rule that let it go in `why`.
pub(super) fn write_let_go(line: &mut Vec<u8>, let_go: &LetGo) {
    let LetGo { at, table, id, action, rule, why, .. } = let_go;
    line.extend_from_slice(b"{\"at\":");
    write_json(line, &at.to_string());
    write_field(line, "table", &table.to_string());
    line.extend_from_slice(b",\"id\":");
    write_raw(line, id);
    write_field(line, "action", action.name());
    write_field(line, "rule", rule);
    write_field(line, "why", why.option());
    write_field(line, "text", &why.to_string());
    line.push(b'}');
}

/// Appends `,"name":value`.
pub(super) fn write_field<T: serde::Serialize + ?Sized>(line: &mut Vec<u8>, name: &str, value: &T) {
    line.push(b',');
    write_json(line, name);
    line.push(b':');
    write_json(line, value);
}

fn write_json<T: serde::Serialize + ?Sized>(line: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(line, value).expect("texts, numbers and lists of them are JSON");
}

/// A JSON text as it is; what is none, or spans lines, as a string.
fn write_raw(line: &mut Vec<u8>, text: &str) {
    let is_json = !text.contains(['\n', '\r']) && serde_json::from_str::<IgnoredAny>(text).is_ok();
    if is_json { line.extend_from_slice(text.as_bytes()) } else { write_json(line, text) }
}
