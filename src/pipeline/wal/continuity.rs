//! Whether a session goes on where the one before ended. Pure.

use std::collections::BTreeSet;

use crate::change::Lsn;
use crate::state::State;

/// The server and the slot as a session finds them.
#[derive(Clone, Debug)]
pub(super) struct Found<'a> {
    pub(super) server: &'a Server,
    /// `None` without a slot that can be read.
    pub(super) slot: Option<Slot>,
    /// As in [`State::parts`].
    pub(super) publication: &'a BTreeSet<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) system: Box<str>,
    pub(super) timeline: u32,
    /// How far its log goes.
    pub(super) end: Lsn,
    /// Where it left the recorded timeline, if that is another of its history.
    pub(super) left_at: Option<Lsn>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) confirmed: Lsn,
    /// It is synchronised to standbys, so it stands where it stood.
    pub(super) failover: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All that was committed after what is recorded will come.
    Continues,
    /// Perhaps it will not: every rule is owed a resync.
    Gap(Gap),
    /// What the slot held is gone with it.
    SlotLost,
    /// Nobody has made the slot yet.
    NoSlot,
    OtherSystem {
        recorded: Box<str>,
    },
}

/// Why changes may have been passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Gap {
    #[error("nothing is recorded of an earlier run: this is the first, or its state is lost")]
    NoState,
    #[error(
        "the slot is confirmed up to {confirmed}, and only up to {recorded} by this rowcast: it was \
         made anew, or moved, or another rowcast has read it"
    )]
    Moved { recorded: Lsn, confirmed: Lsn },
    #[error(
        "the server's log ends at {end}, before {recorded}, which was delivered: it was restored \
         from an older copy"
    )]
    Rewound { recorded: Lsn, end: Lsn },
    #[error("the server goes on from a copy: it was on timeline {recorded}, and is on {found}")]
    NewTimeline { recorded: u32, found: u32 },
    #[error("the publication is not the one it was: perhaps it did not send all tables meanwhile")]
    Publication,
}

/// What to make of it. Everything that makes a state lie behind the slot — a slot
/// made anew, another rowcast on it, a state that could not be written, an older
/// state brought back — is a gap by one comparison.
pub(super) fn judge(state: Option<&State>, found: &Found<'_>) -> Verdict {
    let server = found.server;
    let Some(state) = state else {
        return match found.slot {
            Some(_) => Verdict::Gap(Gap::NoState),
            None => Verdict::NoSlot,
        };
    };
    if state.system != server.system {
        return Verdict::OtherSystem { recorded: state.system.clone() };
    }
    let Some(slot) = found.slot else { return Verdict::SlotLost };
    let (recorded, confirmed) = (Lsn::from(state.position.value()), slot.confirmed);
    if confirmed > recorded {
        return Verdict::Gap(Gap::Moved { recorded, confirmed });
    }
    if state.timeline != server.timeline {
        // What was delivered past the switch never happened on this timeline.
        let is_shared = server.left_at.is_some_and(|left_at| recorded <= left_at);
        if !(slot.failover && is_shared) {
            let (recorded, found) = (state.timeline, server.timeline);
            return Verdict::Gap(Gap::NewTimeline { recorded, found });
        }
    }
    if recorded > server.end {
        return Verdict::Gap(Gap::Rewound { recorded, end: server.end });
    }
    if !state.parts.is_subset(found.publication) {
        return Verdict::Gap(Gap::Publication);
    }
    Verdict::Continues
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Position;
    use crate::state::Owed;

    fn parts(names: &[&str]) -> BTreeSet<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    /// What was recorded: position 100 on timeline 2.
    fn state() -> State {
        State {
            system: "7".into(),
            timeline: 2,
            slot: "rowcast".into(),
            position: Position::new(100),
            parts: parts(&["p", "posts"]),
            owed: Owed::default(),
        }
    }

    fn server() -> Server {
        Server { system: "7".into(), timeline: 2, end: 500.into(), left_at: None }
    }

    fn at(confirmed: u64) -> Option<Slot> {
        Some(Slot { confirmed: confirmed.into(), failover: false })
    }

    fn verdict(server: &Server, slot: Option<Slot>) -> Verdict {
        judge(Some(&state()), &Found { server, slot, publication: &parts(&["p", "posts"]) })
    }

    #[test]
    fn a_slot_at_or_before_the_recorded_position_continues() {
        for confirmed in [0, 99, 100] {
            assert_eq!(verdict(&server(), at(confirmed)), Verdict::Continues, "{confirmed}");
        }
    }

    #[test]
    fn a_slot_past_the_recorded_position_has_a_gap() {
        let gap = Gap::Moved { recorded: 100.into(), confirmed: 101.into() };
        assert_eq!(verdict(&server(), at(101)), Verdict::Gap(gap));
    }

    #[test]
    fn without_a_state_there_is_a_gap_and_without_a_slot_too_nothing_was_set_up() {
        let (server, publication) = (server(), parts(&["p"]));
        let found = |slot| Found { server: &server, slot, publication: &publication };
        assert_eq!(judge(None, &found(at(100))), Verdict::Gap(Gap::NoState));
        assert_eq!(judge(None, &found(None)), Verdict::NoSlot);
        assert_eq!(judge(Some(&state()), &found(None)), Verdict::SlotLost);
    }

    #[test]
    fn another_system_is_never_read_whatever_its_slot_is() {
        let other = Server { system: "8".into(), ..server() };
        for slot in [None, at(100), at(101)] {
            assert_eq!(verdict(&other, slot), Verdict::OtherSystem { recorded: "7".into() });
        }
    }

    #[test]
    fn a_new_timeline_is_a_gap_unless_the_slot_came_along_with_all_that_was_delivered() {
        let gap = Verdict::Gap(Gap::NewTimeline { recorded: 2, found: 3 });
        let promoted = |left_at: Option<u64>| Server {
            timeline: 3,
            left_at: left_at.map(Lsn::from),
            ..server()
        };
        let synced = Some(Slot { confirmed: 90.into(), failover: true });
        assert_eq!(verdict(&promoted(Some(100)), synced), Verdict::Continues);
        assert_eq!(verdict(&promoted(Some(99)), synced), gap);
        assert_eq!(verdict(&promoted(None), synced), gap, "no part of its history");
        assert_eq!(verdict(&promoted(Some(100)), at(90)), gap, "the slot is a copy's own");
    }

    #[test]
    fn a_log_that_ends_before_what_was_delivered_was_rewound() {
        let rewound = Server { end: 99.into(), ..server() };
        let gap = Gap::Rewound { recorded: 100.into(), end: 99.into() };
        assert_eq!(verdict(&rewound, at(90)), Verdict::Gap(gap));
    }

    #[test]
    fn a_part_of_the_publication_that_is_gone_is_a_gap_and_one_more_is_not() {
        let server = server();
        let with = |names: &[&str]| {
            judge(
                Some(&state()),
                &Found { server: &server, slot: at(100), publication: &parts(names) },
            )
        };
        assert_eq!(with(&["p", "posts", "tags"]), Verdict::Continues);
        assert_eq!(with(&["p", "posts again"]), Verdict::Gap(Gap::Publication));
    }
}
