use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tracing::warn;

use crate::chain;
use crate::observe::Observer;
use crate::pipeline::Error;
use crate::postgres::{APPLICATION_NAME, SlotName};

/// With `takeover` on, a stream tells the server so often that it lives.
pub(super) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// A holder that tells nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// A holder may leave at any time: its standby asks this often.
const POLL: Duration = Duration::from_secs(1);
/// For one look at the holder.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The backend that streams from the slot, as a standby sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    /// Of another program we do not know how often it speaks.
    is_rowcast: bool,
    /// The server waits, for its client or for more log, so it has read all that
    /// its client sent.
    waits: bool,
    /// How far the server is. Before each step it reads what has come; while it
    /// works off one large transaction, which says nothing of its client, it
    /// neither steps nor waits.
    sent_lsn: Option<Box<str>>,
    /// When its other end last spoke, by that one's clock; only whether it
    /// changes says something. `None`: never yet, or we may not see it.
    reply_time: Option<Box<str>>,
}

impl Holder {
    /// Whether it is as it was, for all that its other end tells.
    fn says_no_more_than(&self, earlier: &Holder) -> bool {
        self.pid == earlier.pid && self.reply_time == earlier.reply_time
    }

    fn tell(&self, slot: &SlotName) {
        let pid = self.pid;
        let hint = format!(
            "perhaps another rowcast streams from it: SELECT * FROM pg_stat_replication WHERE pid = {pid}"
        );
        warn!(
            hint,
            "slot {slot} is in use by backend {pid}: waiting until it is free; nothing is lost: the \
             slot keeps what was not delivered"
        );
    }
}

/// A holder since it last spoke.
#[derive(Debug)]
struct Seen {
    since: Instant,
    /// As it was when looked at last, and when that was.
    holder: Holder,
    at: Instant,
    /// When it was looked at before the step that it was last seen to have made.
    before_step: Option<Instant>,
    /// What its other end had said by then, the server has read.
    read_until: Instant,
}

impl Seen {
    fn new(holder: Holder, now: Instant) -> Seen {
        Seen { since: now, holder, at: now, before_step: None, read_until: now }
    }

    fn look(&mut self, holder: &Holder, now: Instant) {
        if holder.sent_lsn != self.holder.sent_lsn {
            // It may have read only before it began with this step, however long that
            // took; but that was after the step before.
            self.read_until = self.read_until.max(self.before_step.unwrap_or(self.since));
            self.before_step = Some(self.at);
        }
        if holder.waits {
            self.read_until = now;
        }
        self.holder.clone_from(holder);
        self.at = now;
    }

    fn is_silent(&self) -> bool {
        let can_be_heard = self.holder.reply_time.is_some();
        can_be_heard && self.read_until.duration_since(self.since) >= PATIENCE
    }
}

/// Why a holder has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It is the server's end of our own last connection, which was cut without
    /// the server's knowing.
    Ours,
    Silent,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Ours => f.write_str("it is what is left of our own last connection"),
            Why::Silent => write!(f, "it has not been heard of for {} s", PATIENCE.as_secs()),
        }
    }
}

/// Waiting for the slot while somebody else streams from it.
#[derive(Debug)]
pub(in crate::pipeline) struct Standby {
    takeover: bool,
    /// The backend that streamed to us last.
    own: Option<i32>,
    seen: Option<Seen>,
}

impl Standby {
    pub(in crate::pipeline) fn new(takeover: bool) -> Standby {
        Standby { takeover, own: None, seen: None }
    }

    pub(super) fn streams_by(&mut self, pid: i32) {
        self.own = Some(pid);
    }

    /// Returns when nobody streams from the slot, and whether somebody did.
    ///
    /// Two that both take over do not fight: whose connection is ended waits as
    /// a standby, and sees that the other speaks.
    pub(super) async fn wait(
        &mut self,
        client: &Client,
        slot: &SlotName,
        observer: &Observer,
    ) -> Result<bool, Error> {
        let mut has_waited = false;
        let mut is_told = false;
        while let Some(holder) = look(client, slot).await? {
            has_waited = true;
            observer.waits(format!("slot {slot} held by pid {}", holder.pid));
            match self.judge(&holder, Instant::now()) {
                Some(why) => end(client, slot, holder.pid, why).await?,
                None => {
                    if !is_told {
                        holder.tell(slot);
                        is_told = true;
                    }
                    sleep(POLL).await;
                }
            }
        }
        Ok(has_waited)
    }

    /// Why the holder has to go, if it has to. It is not asked for twice at once.
    fn judge(&mut self, holder: &Holder, now: Instant) -> Option<Why> {
        if !holder.is_rowcast {
            return None;
        }
        if self.own == Some(holder.pid) {
            self.own = None;
            return Some(Why::Ours);
        }
        let mut seen = match self.seen.take() {
            Some(seen) if holder.says_no_more_than(&seen.holder) => seen,
            _ => Seen::new(holder.clone(), now),
        };
        seen.look(holder, now);
        let is_silent = seen.is_silent();
        self.seen = Some(seen);
        (self.takeover && is_silent).then(|| {
            self.seen = None;
            Why::Silent
        })
    }
}

async fn look(client: &Client, slot: &SlotName) -> Result<Option<Holder>, Error> {
    let looked = timeout(LOOK_TIMEOUT, client.query_opt(HOLDER, &[&slot.as_str()])).await;
    let Some(row) = looked.map_err(|_| Error::InspectTimeout)?.map_err(Error::Inspect)? else {
        return Ok(None);
    };
    let holder = || {
        Ok(Holder {
            pid: row.try_get("pid")?,
            is_rowcast: row.try_get::<_, Option<&str>>("application")? == Some(APPLICATION_NAME),
            waits: row.try_get("waits")?,
            sent_lsn: row.try_get::<_, Option<String>>("sent_lsn")?.map(Box::from),
            reply_time: row.try_get::<_, Option<String>>("reply_time")?.map(Box::from),
        })
    };
    holder().map(Some).map_err(Error::Inspect)
}

/// Ends the backend, so that it lets the slot go.
async fn end(client: &Client, slot: &SlotName, pid: i32, why: Why) -> Result<(), Error> {
    // A backend that is told to end first tells its client, for which it waits
    // if nobody reads; told again, it does not.
    const ATTEMPTS: u32 = 3;

    warn!("taking slot {slot} from backend {pid}: {why}");
    for _ in 0..ATTEMPTS {
        let ended = timeout(LOOK_TIMEOUT, client.query_one(END, &[&pid])).await;
        match ended.map_err(|_| Error::InspectTimeout)? {
            Ok(row) if row.try_get(0).map_err(Error::Inspect)? => return Ok(()),
            Ok(_) => {}
            // Another role's, perhaps: then it is waited for as any other.
            Err(error) if error.as_db_error().is_some() => {
                warn!("backend {pid} cannot be ended: {}", chain::line(&error));
                return Ok(());
            }
            Err(error) => return Err(Error::Inspect(error)),
        }
    }
    warn!("backend {pid} does not end");
    Ok(())
}

/// `Activity` is to wait for more log.
const HOLDER: &str = "
SELECT s.active_pid AS pid, a.application_name AS application, r.reply_time::text AS reply_time,
       r.sent_lsn::text AS sent_lsn,
       coalesce(a.wait_event_type, '') IN ('Activity', 'Client') AS waits
FROM pg_replication_slots s
LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
WHERE s.slot_name::text = $1 AND s.active_pid IS NOT NULL
";

const END: &str = "SELECT pg_terminate_backend($1, 500)";

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: i32, reply_time: &str) -> Holder {
        let (reply_time, sent_lsn) = (Some(reply_time.into()), Some("0/1".into()));
        Holder { pid, is_rowcast: true, waits: true, sent_lsn, reply_time }
    }

    /// What a standby decides, second by second, about holders it sees.
    fn verdicts(standby: &mut Standby, seen: &[Holder]) -> Vec<Option<Why>> {
        let start = Instant::now();
        let second = |n: usize| start + Duration::from_secs(n as u64);
        seen.iter().enumerate().map(|(n, holder)| standby.judge(holder, second(n))).collect()
    }

    #[test]
    fn a_holder_that_speaks_is_left_alone_and_a_silent_one_ended_after_five_seconds() {
        let speaks: Vec<Holder> = (0..20).map(|n| holder(7, &n.to_string())).collect();
        assert_eq!(verdicts(&mut Standby::new(true), &speaks), [None; 20]);
        let silent = vec![holder(7, "x"); 6];
        let expected = [None, None, None, None, None, Some(Why::Silent)];
        assert_eq!(verdicts(&mut Standby::new(true), &silent), expected);
        assert_eq!(verdicts(&mut Standby::new(false), &vec![holder(7, "x"); 20]), [None; 20]);
    }

    #[test]
    fn another_holder_has_its_own_five_seconds() {
        let mut seen = vec![holder(7, "x"); 5];
        seen.extend(vec![holder(8, "x"); 5]);
        assert_eq!(verdicts(&mut Standby::new(true), &seen), [None; 10]);
    }

    #[test]
    fn one_that_was_ended_is_not_ended_again_at_once() {
        let seen = vec![holder(7, "x"); 12];
        let verdicts = verdicts(&mut Standby::new(true), &seen);
        let ends: Vec<usize> = (0..12).filter(|n| verdicts[*n].is_some()).collect();
        assert_eq!(ends, [5, 11]);
    }

    #[test]
    fn silence_while_the_server_is_at_work_says_nothing() {
        let busy = Holder { waits: false, ..holder(7, "x") };
        let mut seen = vec![busy.clone(); 20];
        assert_eq!(verdicts(&mut Standby::new(true), &seen), [None; 20]);
        seen.push(holder(7, "y"));
        assert_eq!(verdicts(&mut Standby::new(true), &seen), [None; 21], "it was read then");
        seen[20] = holder(7, "x");
        assert_eq!(verdicts(&mut Standby::new(true), &seen)[20], Some(Why::Silent));
    }

    #[test]
    fn a_step_of_the_server_says_that_it_has_read_what_came_before_the_step_before() {
        let at = |lsn: u32| Holder {
            waits: false,
            sent_lsn: Some(format!("0/{lsn}").into()),
            ..holder(7, "x")
        };
        // After a step, at work on one that takes long; then it is through with that.
        let mut seen = vec![at(1), at(2)];
        seen.extend(vec![at(2); 20]);
        seen.push(at(3));
        assert_eq!(verdicts(&mut Standby::new(true), &seen), vec![None; seen.len()]);
        seen.push(at(4));
        assert_eq!(verdicts(&mut Standby::new(true), &seen).last(), Some(&Some(Why::Silent)));

        let steps: Vec<Holder> = (0..8).map(at).collect();
        let verdicts = verdicts(&mut Standby::new(true), &steps);
        assert_eq!(verdicts.iter().position(Option::is_some), Some(7));
    }

    #[test]
    fn one_whose_words_we_may_not_see_is_left_alone() {
        let hidden = Holder { reply_time: None, ..holder(7, "x") };
        assert_eq!(verdicts(&mut Standby::new(true), &vec![hidden; 20]), [None; 20]);
    }

    #[test]
    fn what_is_left_of_our_own_connection_goes_at_once_also_without_takeover() {
        let mut standby = Standby::new(false);
        standby.streams_by(7);
        let seen = [holder(8, "x"), holder(7, "x"), holder(7, "x")];
        assert_eq!(verdicts(&mut standby, &seen), [None, Some(Why::Ours), None]);
    }

    #[test]
    fn another_program_is_never_ended() {
        let other = Holder { is_rowcast: false, ..holder(7, "x") };
        let mut standby = Standby::new(true);
        standby.streams_by(7);
        assert_eq!(verdicts(&mut standby, &vec![other; 20]), [None; 20]);
    }
}
