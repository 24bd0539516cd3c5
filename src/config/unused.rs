use super::locate::{Outline, Source};
use crate::postgres::Capture;

const OF_WAL: [&str; 6] = [
    "database.publication",
    "database.publish_columns",
    "limits.max_retained_wal",
    "run.on_slot_loss",
    "run.takeover",
    "run.failover",
];
const OF_TRIGGERS: [&str; 2] = ["database.wake", "limits.max_outbox_rows"];

/// Says which options of the file mean nothing with the capture that it asks for:
/// they were meant for the other one, or whoever wrote them expects more than is
/// done.
pub(super) fn unused(source: &Source, outline: &Outline, capture: Capture) -> Vec<String> {
    let (options, capture) = match capture {
        Capture::Wal => (&OF_TRIGGERS[..], "wal"),
        Capture::Triggers => (&OF_WAL[..], "triggers"),
    };
    let set = options.iter().filter_map(|option| outline.find(option));
    set.map(|entry| {
        let (place, option) = (source.location(entry.key.start), &entry.option);
        format!("{place}: {option} means nothing with capture = \"{capture}\"")
    })
    .collect()
}
