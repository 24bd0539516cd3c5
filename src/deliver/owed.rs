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

    /// A resync by these terms is settled, whatever its reason: it tells
    /// everyone to fetch again, as what was owed would. Returns the rule that
    /// owes nothing more.
    pub(super) fn settle(&mut self, terms: &Arc<Terms>) -> Option<Arc<str>> {
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

    #[test]
    fn a_rule_owes_nothing_once_a_resync_of_each_of_its_terms_is_settled() {
        let terms = |rule, entity| Arc::new(Terms::plain(rule, entity));
        let all = [terms("a", "post"), terms("a", "comment"), terms("b", "user")];
        let resync = |terms: &Arc<Terms>| Resync {
            terms: terms.clone(),
            reason: Reason::Gap,
            count: None,
            audience: Audience::All,
            position: None,
            at: Timestamp::from_unix_micros(0),
        };
        let mut owed = Owed::of(&all.each_ref().map(resync));
        assert_eq!(owed.settle(&terms("c", "post")), None);
        assert_eq!(owed.settle(&all[0]), None);
        assert_eq!(owed.settle(&all[0]), None);
        assert_eq!(owed.settle(&all[1]).as_deref(), Some("a"));
        assert_eq!(owed.settle(&all[1]), None);
        assert_eq!(owed.settle(&all[2]).as_deref(), Some("b"));
    }
}
