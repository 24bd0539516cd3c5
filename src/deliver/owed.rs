use std::collections::BTreeMap;
use std::sync::Arc;

use crate::notification::{Resync, Terms};

/// Rules whose resyncs are recorded as owed, each with those of its terms whose
/// resync is not settled yet. Pure.
#[derive(Debug, Default)]
pub(super) struct Owed(BTreeMap<Arc<str>, Vec<Arc<Terms>>>);

impl Owed {
    pub(super) fn of(resyncs: &[Resync]) -> Owed {
        let mut owed = Owed::default();
        for Resync { terms, .. } in resyncs {
            owed.0.entry(terms.rule.clone()).or_default().push(terms.clone());
        }
        owed
    }

    /// A resync is settled. Whatever its reason, it stands for what was owed by its
    /// terms if it was for everyone, as that is; one for the rows of a few changes does
    /// not. Returns the rule that owes nothing more.
    pub(super) fn settle(&mut self, resync: &Resync) -> Option<Arc<str>> {
        let Resync { terms, audience, .. } = resync;
        if !audience.is_all() {
            return None;
        }
        let rest = self.0.get_mut(&terms.rule)?;
        rest.retain(|owed| !Arc::ptr_eq(owed, terms));
        if !rest.is_empty() {
            return None;
        }
        self.0.remove_entry(&terms.rule).map(|(rule, _)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Timestamp;
    use crate::notification::{Audience, Reason};

    fn terms(rule: &str, entity: &str) -> Arc<Terms> {
        Arc::new(Terms::plain(rule, entity))
    }

    fn resync(terms: &Arc<Terms>) -> Resync {
        Resync {
            terms: terms.clone(),
            reason: Reason::Gap,
            count: None,
            audience: Audience::All,
            position: None,
            at: Timestamp::from_unix_micros(0),
        }
    }

    #[test]
    fn a_rule_owes_nothing_once_a_resync_of_each_of_its_terms_is_settled() {
        let all = [terms("a", "post"), terms("a", "comment"), terms("b", "user")];
        let [post, comment, user] = all.each_ref().map(resync);
        let mut owed = Owed::of(&[post.clone(), comment.clone(), user.clone()]);
        assert_eq!(owed.settle(&resync(&terms("c", "post"))), None);
        assert_eq!(owed.settle(&post), None);
        assert_eq!(owed.settle(&post), None);
        assert_eq!(owed.settle(&comment).as_deref(), Some("a"));
        assert_eq!(owed.settle(&comment), None);
        assert_eq!(owed.settle(&user).as_deref(), Some("b"));
    }

    #[test]
    fn a_resync_for_the_channels_of_some_rows_leaves_owed_what_is_for_everyone() {
        let gap = resync(&terms("a", "post"));
        let mut owed = Owed::of(std::slice::from_ref(&gap));
        let few = Audience::of(&["private-posts.1".parse().expect("a channel")]);
        let bulk = Resync { reason: Reason::Bulk, audience: few, ..gap.clone() };
        assert_eq!(owed.settle(&bulk), None, "the gap's second list may be still to come");
        assert_eq!(owed.settle(&gap).as_deref(), Some("a"));
    }
}
