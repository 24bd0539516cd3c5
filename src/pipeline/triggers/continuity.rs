//! Whether a session goes on where the one before ended. Pure.

use std::collections::BTreeSet;

use super::Server;
use crate::change::Lsn;
use crate::source::triggers::Delivered;
use crate::state::State;

/// The server and the outbox as a session finds them.
#[derive(Clone, Debug)]
pub(super) struct Found<'a> {
    pub(super) server: &'a Server,
    pub(super) delivered: Delivered,
    /// As in [`State::parts`].
    pub(super) parts: &'a BTreeSet<Box<str>>,
}

/// Why changes may have been passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Gap {
    #[error("nothing is recorded of an earlier run: this is the first, or its state is lost")]
    NoState,
    #[error(
        "the outbox was read up to {delivered}, and only up to {recorded} by this rowcast: another \
         one has read it, or an older state was brought back"
    )]
    Moved { recorded: Lsn, delivered: Lsn },
    #[error(
        "the outbox has been read {found} times, and {recorded} times by this rowcast: it was made \
         anew, or the database was restored from an older copy"
    )]
    Rewound { recorded: u64, found: u64 },
    #[error("the server goes on from a copy: it was on timeline {recorded}, and is on {found}")]
    NewTimeline { recorded: u32, found: u32 },
    #[error(
        "the outbox, or a trigger that writes to it, is not the one that it was: perhaps not all \
         changes were written down meanwhile"
    )]
    Parts,
}

/// `None`: all that was committed after what is recorded will come. The system is
/// the one that is recorded.
pub(super) fn judge(state: Option<&State>, found: &Found<'_>) -> Option<Gap> {
    let Some(state) = state else { return Some(Gap::NoState) };
    let Found { server, delivered, parts } = found;
    if state.timeline != server.timeline {
        let (recorded, found) = (state.timeline, server.timeline);
        return Some(Gap::NewTimeline { recorded, found });
    }
    let recorded = Delivered::session_of(state.position);
    if recorded > delivered.session {
        return Some(Gap::Rewound { recorded, found: delivered.session });
    }
    if delivered.position > state.position {
        let [recorded, delivered] =
            [state.position, delivered.position].map(|position| Lsn::from(position.value()));
        return Some(Gap::Moved { recorded, delivered });
    }
    (!state.parts.is_subset(parts)).then_some(Gap::Parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Position;
    use crate::state::Owed;

    fn parts(names: &[&str]) -> BTreeSet<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    /// A position of session 3.
    fn at(n: u64) -> Position {
        Position::new((3 << 40) + n)
    }

    /// What was recorded: position 100 of session 3, on timeline 2.
    fn state() -> State {
        State {
            system: "7".into(),
            timeline: 2,
            slot: "rowcast-shop".into(),
            position: at(100),
            parts: parts(&["outbox 1", "table 2"]),
            owed: Owed::default(),
        }
    }

    fn verdict(timeline: u32, delivered: Delivered, names: &[&str]) -> Option<Gap> {
        let server = Server { system: "7".into(), timeline };
        let found = Found { server: &server, delivered, parts: &parts(names) };
        judge(Some(&state()), &found)
    }

    fn found(delivered: Delivered) -> Option<Gap> {
        verdict(2, delivered, &["outbox 1", "table 2"])
    }

    #[test]
    fn an_outbox_read_up_to_the_recorded_position_or_less_continues() {
        for position in [Position::new(0), Position::new((2 << 40) + 500), at(99), at(100)] {
            assert_eq!(found(Delivered { session: 3, position }), None, "{position:?}");
        }
        assert_eq!(found(Delivered { session: 9, position: at(100) }), None, "they read nothing");
    }

    #[test]
    fn an_outbox_that_was_read_further_has_a_gap() {
        for (session, position) in [(3, at(101)), (4, Position::new((4 << 40) + 2))] {
            let gap = Gap::Moved {
                recorded: state().position.value().into(),
                delivered: position.value().into(),
            };
            assert_eq!(found(Delivered { session, position }), Some(gap));
        }
    }

    #[test]
    fn a_reader_that_counts_from_before_was_rewound() {
        let fresh = Delivered { session: 0, position: Position::new(0) };
        assert_eq!(found(fresh), Some(Gap::Rewound { recorded: 3, found: 0 }));
        let restored = Delivered { session: 2, position: Position::new((2 << 40) + 7) };
        assert_eq!(found(restored), Some(Gap::Rewound { recorded: 3, found: 2 }));
    }

    #[test]
    fn without_a_state_or_on_a_new_timeline_there_is_a_gap() {
        let delivered = Delivered { session: 3, position: at(100) };
        let gap = Gap::NewTimeline { recorded: 2, found: 3 };
        assert_eq!(verdict(3, delivered, &["outbox 1", "table 2"]), Some(gap));
        let (server, parts) = (Server { system: "7".into(), timeline: 2 }, BTreeSet::new());
        let found = Found { server: &server, delivered, parts: &parts };
        assert_eq!(judge(None, &found), Some(Gap::NoState));
    }

    #[test]
    fn a_part_that_is_gone_is_a_gap_and_one_more_is_not() {
        let delivered = Delivered { session: 3, position: at(100) };
        let with = |names: &[&str]| verdict(2, delivered, names);
        assert_eq!(with(&["outbox 1", "table 2", "table 3"]), None);
        assert_eq!(with(&["outbox 1", "table 2 again"]), Some(Gap::Parts));
        assert_eq!(with(&["outbox 8", "table 2"]), Some(Gap::Parts));
    }
}
