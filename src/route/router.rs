use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::bound::{self, BoundRule};
use super::{Broadcasts, Rules, Unsent, broadcast};
use crate::change::{
    Broadcast, Change, Context, Missed, ParentKey, Parents, Relation, TableName, Transaction,
};
use crate::notification::{
    Audience, Handoff, LetGo, NameHash, Notification, Reason, Resync, Terms,
};

/// The rules at work on one session's relations.
#[derive(Debug)]
pub struct Router {
    rules: Arc<Rules>,
    /// By OID; a relation that was described anew is bound anew.
    tables: HashMap<u32, Table>,
    scratch: Scratch,
    pub counts: Counts,
}

#[derive(Debug)]
struct Table {
    relation: Arc<Relation>,
    rules: Vec<BoundRule>,
}

/// A table got a name that a rule does not take, which took it before. To pass
/// over its changes would be silent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule} takes {from}, which is called {to} now; changes are held back, not lost")]
pub struct Renamed {
    pub rule: Arc<str>,
    pub from: TableName,
    pub to: TableName,
}

impl Renamed {
    /// What to do about it.
    pub fn hint(&self) -> String {
        format!("table = \"{}\" in rule {}, then restart", self.to, self.rule)
    }
}

/// Buffers that are kept from change to change.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub id: String,
    pub text: String,
    pub data: String,
    pub columns: Vec<u16>,
    /// What the rule at work lets go; `None` unless anyone asks.
    pub let_go: Option<Vec<LetGo>>,
    /// What the rule at work only counts of a change.
    pub counted: Counted,
}

#[derive(Debug, Default)]
pub(super) struct Counted {
    pub changes: u64,
    pub names: Vec<NameHash>,
    /// Whether the names are not known.
    pub is_all: bool,
}

impl Scratch {
    /// What was let go stands after what is said until now.
    fn hand_on(&mut self, terms: &Arc<Terms>, transaction: Transaction, out: &mut Handoff) {
        self.counted.hand_on(terms, transaction, &mut out.resyncs);
        let Some(noted) = &mut self.let_go else { return };
        let place = out.notifications.len();
        out.let_go.extend(noted.drain(..).map(|let_go| LetGo { place, ..let_go }));
    }

    /// Nothing of the change is said yet.
    fn forget(&mut self) {
        self.let_go.as_mut().map(Vec::clear);
        self.counted.names.clear();
        (self.counted.changes, self.counted.is_all) = (0, false);
    }
}

impl Counted {
    /// What was counted of one transaction is told by one resync.
    fn hand_on(&mut self, terms: &Arc<Terms>, transaction: Transaction, out: &mut Vec<Resync>) {
        if self.changes == 0 {
            return;
        }
        let resync = resync_of(transaction, terms, Reason::Bulk, out);
        resync.count = resync.count.map(|count| count + std::mem::take(&mut self.changes));
        match std::mem::take(&mut self.is_all) {
            true => resync.audience = Audience::All,
            false => resync.audience.add(self.names.iter().copied()),
        }
        self.names.clear();
    }
}

/// What a router left out or cut short, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Channels that a NULL left out.
    pub null_channels: u64,
    /// Payloads sent minimal because their own was too large or could not be
    /// made.
    pub partial: u64,
}

impl Router {
    pub fn new(rules: Arc<Rules>) -> Router {
        Router {
            rules,
            tables: HashMap::new(),
            scratch: Scratch::default(),
            counts: Counts::default(),
        }
    }

    /// The same, which says too whom it does not tell, and why.
    pub fn explaining(mut self) -> Router {
        self.scratch.let_go = Some(Vec::new());
        self
    }

    /// Takes the tables as the catalog has them at a session's start, so that
    /// one that is renamed before its first change is seen as renamed too.
    pub fn learn(&mut self, catalog: &[Relation]) {
        for relation in catalog {
            let rules = self.rules.bind(relation);
            if !rules.is_empty() {
                let table = Table { relation: Arc::new(relation.clone()), rules };
                self.tables.insert(relation.oid, table);
            }
        }
    }

    /// Appends what the rules say about the change, in the rules' order: its
    /// notifications, or a resync where a parent cannot be known. A rule that
    /// needs a parent that `parents` lacks says nothing and adds it to
    /// `missing`; then all is to be routed again.
    ///
    /// # Errors
    /// At every change of a table that a rule lost by its new name.
    pub fn route(
        &mut self,
        change: &Change<'_>,
        parents: &Parents,
        missing: &mut BTreeSet<ParentKey>,
        out: &mut Handoff,
    ) -> Result<(), Renamed> {
        let Router { rules, tables, scratch, counts } = self;
        let table = table_of(rules, tables, change.relation)?;
        if table.rules.is_empty() && scratch.let_go.is_some() {
            let place = out.notifications.len();
            out.let_go.push(bound::untaken(change, &rules.options, place));
        }
        for rule in &table.rules {
            let Some(kin) = rule.kin(parents) else {
                rule.announce(
                    change,
                    None,
                    &rules.options,
                    scratch,
                    counts,
                    &mut out.notifications,
                );
                scratch.hand_on(rule.terms(), change.transaction, out);
                continue;
            };
            let (said, counted) = (out.notifications.len(), *counts);
            rule.announce(
                change,
                Some(&kin),
                &rules.options,
                scratch,
                counts,
                &mut out.notifications,
            );
            let Some(trouble) = kin.into_trouble() else {
                scratch.hand_on(rule.terms(), change.transaction, out);
                continue;
            };
            scratch.forget();
            out.notifications.truncate(said);
            *counts = counted;
            if trouble.missing.is_empty() {
                let terms = rule.terms();
                let resync = resync_of(change.transaction, terms, Reason::Lookup, &mut out.resyncs);
                resync.count = resync.count.map(|count| count + 1);
                resync.audience = Audience::All;
            }
            missing.extend(trouble.missing);
        }
        Ok(())
    }

    /// Appends what the rules say about a table that was emptied at once.
    ///
    /// # Errors
    /// As [`Router::route`].
    pub fn truncate(
        &mut self,
        relation: &Arc<Relation>,
        transaction: Transaction,
        out: &mut Vec<Resync>,
    ) -> Result<(), Renamed> {
        let Router { rules, tables, .. } = self;
        out.extend(table_of(rules, tables, relation)?.rules.iter().map(|rule| Resync {
            terms: rule.terms().clone(),
            reason: Reason::Truncate,
            count: None,
            audience: Audience::All,
            position: Some(transaction.position),
            at: transaction.at,
        }));
        Ok(())
    }

    /// Appends what the rules say about changes that the source cannot tell: those
    /// on the table, or all.
    ///
    /// # Errors
    /// As [`Router::route`].
    pub fn missed(
        &mut self,
        relation: Option<&Arc<Relation>>,
        why: Missed,
        transaction: Transaction,
        out: &mut Vec<Resync>,
    ) -> Result<(), Renamed> {
        let reason = match why {
            Missed::Unrecorded => Reason::Gap,
            Missed::Full => Reason::Shed,
        };
        let resync = |terms: &Arc<Terms>| Resync {
            terms: terms.clone(),
            reason,
            count: None,
            audience: Audience::All,
            position: Some(transaction.position),
            at: transaction.at,
        };
        match relation {
            Some(relation) => {
                let table = table_of(&self.rules, &mut self.tables, relation)?;
                out.extend(table.rules.iter().map(|rule| resync(rule.terms())));
            }
            None => out.extend(self.terms().map(resync)),
        }
        Ok(())
    }

    /// Appends the application event, if it is allowed.
    ///
    /// # Errors
    /// Why it is not sent. It is as if it had not been said.
    pub fn broadcast(
        &self,
        broadcast: &Broadcast,
        transaction: Transaction,
        context: Option<&Arc<Context>>,
        out: &mut Vec<Notification>,
    ) -> Result<(), Unsent> {
        let max_data_bytes = self.rules.options.max_data_bytes;
        let broadcasts = self.rules.broadcasts.as_ref().ok_or_else(|| broadcast::off(broadcast))?;
        out.push(broadcasts.notification(broadcast, transaction, context, max_data_bytes)?);
        Ok(())
    }

    /// Those of each rule on each table that it takes, and of application events.
    pub fn terms(&self) -> impl Iterator<Item = &Arc<Terms>> {
        let of_rules = self.tables.values().flat_map(|table| &table.rules).map(BoundRule::terms);
        of_rules.chain(self.rules.broadcasts.as_ref().map(Broadcasts::terms))
    }
}

/// The one resync for this reason that tells of the transaction, made if it is not there:
/// of nothing yet, and for nobody.
fn resync_of<'a>(
    transaction: Transaction,
    terms: &Arc<Terms>,
    reason: Reason,
    out: &'a mut Vec<Resync>,
) -> &'a mut Resync {
    let position = Some(transaction.position);
    let mut of_transaction = out.iter().rev().take_while(|it| it.position == position);
    let back = of_transaction.position(|it| it.reason == reason && Arc::ptr_eq(&it.terms, terms));
    match back {
        Some(back) => {
            let place = out.len() - 1 - back;
            &mut out[place]
        }
        None => out.push_mut(Resync {
            terms: terms.clone(),
            reason,
            count: Some(0),
            audience: Audience::default(),
            position,
            at: transaction.at,
        }),
    }
}

/// The rules on the relation, bound anew if it was described anew.
fn table_of<'a>(
    rules: &Rules,
    tables: &'a mut HashMap<u32, Table>,
    relation: &Arc<Relation>,
) -> Result<&'a Table, Renamed> {
    let described = || Table { relation: relation.clone(), rules: rules.bind(relation) };
    match tables.entry(relation.oid) {
        Entry::Vacant(place) => Ok(place.insert(described())),
        Entry::Occupied(known) if Arc::ptr_eq(&known.get().relation, relation) => {
            Ok(known.into_mut())
        }
        Entry::Occupied(mut known) => {
            let described = described();
            known.get().may_become(&described)?;
            known.insert(described);
            Ok(known.into_mut())
        }
    }
}

impl Table {
    fn may_become(&self, described: &Table) -> Result<(), Renamed> {
        let (before, now) = (&self.relation, &described.relation);
        if before.table == now.table && before.renamed == now.renamed {
            return Ok(());
        }
        let is_kept = |rule: &&BoundRule| described.rules.iter().any(|r| r.name() == rule.name());
        match self.rules.iter().find(|rule| !is_kept(rule)) {
            None => Ok(()),
            Some(lost) => Err(Renamed {
                rule: lost.name().clone(),
                from: lost.table().clone(),
                to: now.renamed.as_ref().unwrap_or(&now.table).clone(),
            }),
        }
    }
}

impl Rules {
    fn bind(&self, relation: &Relation) -> Vec<BoundRule> {
        let rules = self.rules.iter().filter(|rule| rule.applies(relation));
        rules.map(|rule| BoundRule::new(rule, relation, &self.options)).collect()
    }
}
