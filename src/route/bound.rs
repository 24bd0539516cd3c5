//! A rule on one relation: names became indexes, what never varies is made.

mod letter;

use std::sync::Arc;

use super::action::{Announcement, Facts, Rows, decide};
use super::channel::{BoundChannel, Hashed};
use super::data::BoundData;
use super::drawing::Drawing;
use super::event::BoundEvent;
use super::expression::BoundExpression;
use super::kin::{BoundLookup, Kin};
use super::names;
use super::resync;
use super::router::{Counts, Scratch};
use super::rule::{Options, Rule};
use super::template::{BoundTemplate, Part, Unrenderable};
use super::value::write_json;
use super::variable::Variable;
use super::view::{Known, Names, Scope, Side, View};
use super::{Oversize, SoftDelete};
use crate::change::{Change, Operation, Parents, Relation, TableName};
use crate::notification::{
    Action, ChannelPattern, Demand, Demanded, LetGo, Measure, Notification, Shape, Terms, Why,
    write_string,
};

#[derive(Debug)]
pub(super) struct BoundRule {
    terms: Arc<Terms>,
    names: Arc<Names>,
    /// What may happen to a row that it announces.
    on: [bool; Action::ALL.len()],
    /// What that is announced as, if not as what it is.
    action: Option<Action>,
    /// What a row that was read as it stands is announced as.
    read_as: Action,
    id: BoundId,
    pub channels: Vec<BoundChannel>,
    pub events: Vec<BoundEvent>,
    /// What it names for its resyncs.
    pub resync_events: Vec<BoundEvent>,
    membership: Option<BoundExpression>,
    when: Option<BoundExpression>,
    /// `None` for a column that the relation lacks.
    changed: Option<Vec<Option<usize>>>,
    data: Option<BoundData>,
    /// Instead of what does not fit, if not the minimal payload.
    least: Option<BoundData>,
    /// If folding changes what `data` says: how it is drawn for a row as it was,
    /// and as it is.
    drawings: Option<[Arc<Drawing>; 2]>,
    pub measure: Measure,
    oversize: Oversize,
    fixed: Arc<[bool]>,
    soft_delete: BoundSoftDelete,
    lookups: Arc<[BoundLookup]>,
}

#[derive(Debug)]
enum BoundId {
    PrimaryKey(Vec<usize>),
    Template(BoundTemplate),
}

#[derive(Debug)]
enum BoundSoftDelete {
    None,
    Column(usize),
    /// The rule names a column that the relation lacks.
    Unknown,
}

/// Whether a change is news to a rule whose `where` and `on` it meets.
enum Passes<'a> {
    Yes,
    NotChanged,
    NotWhen(&'a BoundExpression),
}

impl BoundRule {
    pub(super) fn new(rule: &Rule, relation: &Relation, options: &Options) -> BoundRule {
        let rule = &*rule.on(relation);
        let table = rule.table_of(relation).unwrap_or(&relation.table);
        let entity: Arc<str> = match &rule.entity {
            Some(entity) => entity.clone(),
            None => names::entity(&table.name).into(),
        };
        let studly = names::studly(&entity).into();
        let print = |part: &Part| match part {
            Part::Variable(Variable::Entity) => Some(entity.to_string()),
            Part::Variable(Variable::EntityStudly) => Some(names::studly(&entity)),
            Part::Variable(Variable::Table) => Some(table.name.to_string()),
            Part::Variable(Variable::Schema) => Some(table.schema.to_string()),
            _ => None,
        };
        let condition = |expression| BoundExpression::new(expression, relation);
        let is_fixed = |name: &str| rule.fixed.iter().any(|fixed| fixed == name);
        let channels: Vec<_> =
            rule.channels.iter().map(|c| c.bind(relation, options, print)).collect();
        let bind = |event| BoundEvent::new(event, relation, print);
        let events = match &rule.model {
            Some(class) => BoundEvent::of_model(class),
            None => rule.events.iter().map(bind).collect(),
        };
        let resync_events: Vec<_> = rule.resync.events.iter().flatten().map(bind).collect();
        let patterns: Vec<_> = channels.iter().filter_map(BoundChannel::pattern).collect();
        let names_users = patterns.iter().any(ChannelPattern::names_users);
        let terms = Terms {
            rule: rule.name.clone(),
            table: table.clone(),
            entity: entity.clone(),
            window: rule.window,
            window_by: rule.window_by,
            id_is_row: rule.id_is_row(relation),
            tells: rule.tells(),
            on: Action::ALL.map(|action| rule.says(action)),
            events: events.iter().map(BoundEvent::constants).collect(),
            shape: rule.data.as_ref().map_or(Shape::Minimal, |data| data.shape(print)),
            may_collapse: rule.resync.may_collapse && !names_users,
            resync_events: resync::own_events(&resync_events)
                .unwrap_or_else(|| resync::usual_events(rule, relation, &events)),
            resync_data: rule.resync.data.as_ref().map(|data| resync::pieces(data, print)),
            channels: patterns,
            demanded: Demanded::default(),
        };
        let measure = Measure::of(&terms.channels);
        let names = Arc::new(Names { entity: entity.clone(), studly, table: table.clone() });
        let fixed: Arc<[bool]> =
            relation.columns.iter().map(|column| is_fixed(&column.name)).collect();
        let lookups: Arc<[BoundLookup]> =
            rule.lookups.iter().map(|lookup| BoundLookup::new(lookup, relation)).collect();
        BoundRule {
            terms: Arc::new(terms),
            on: Action::ALL.map(|action| rule.announces(action)),
            action: rule.action,
            read_as: rule.read_as,
            id: match &rule.id {
                Some(id) => BoundId::Template(id.bind(relation)),
                None => BoundId::PrimaryKey(relation.primary_key.clone()),
            },
            channels,
            events,
            resync_events,
            membership: rule.membership.as_ref().map(condition),
            when: rule.when.as_ref().map(condition),
            changed: rule
                .changed
                .as_ref()
                .map(|columns| columns.iter().map(|name| relation.column(name)).collect()),
            data: rule.data.as_ref().map(|data| data.bind(relation)),
            least: rule.least.as_ref().map(|data| data.bind(relation)),
            drawings: rule.data.as_ref().and_then(|data| {
                Drawing::of_both_rows(data, relation, &names, &fixed, &lookups, measure, options)
            }),
            measure,
            oversize: rule.oversize,
            fixed,
            soft_delete: match (rule.soft_delete_column(relation), &rule.soft_delete) {
                (Some(column), _) => BoundSoftDelete::Column(column),
                (None, SoftDelete::Column(_)) => BoundSoftDelete::Unknown,
                (None, _) => BoundSoftDelete::None,
            },
            lookups,
            names,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.terms.rule
    }

    /// What it says of all its notifications.
    pub(super) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// The name by which the rule takes the relation.
    pub(super) fn table(&self) -> &TableName {
        &self.names.table
    }

    /// The parents that it asks for at a change; `None` if it looks nothing up.
    pub(super) fn kin<'a>(&'a self, parents: &'a Parents) -> Option<Kin<'a>> {
        (!self.lookups.is_empty()).then(|| Kin::new(&self.lookups, parents))
    }

    /// Appends what the rule says about the change, as far as `kin` is known. What is
    /// only to be counted is so in `scratch`.
    pub(super) fn announce(
        &self,
        change: &Change<'_>,
        kin: Option<&Kin<'_>>,
        options: &Options,
        scratch: &mut Scratch,
        counts: &mut Counts,
        out: &mut Vec<Notification>,
    ) {
        let view = View {
            change,
            since: None,
            side: Side::New,
            action: match change.operation {
                Operation::Read => self.read_as,
                operation => plainly(operation),
            },
            names: &self.names,
            fixed: &self.fixed,
            zone: &options.timezone,
            kin,
        };
        let demand = self.terms.demanded.now();
        let is_in_trouble = || kin.is_some_and(Kin::is_in_trouble);
        let membership = self.membership.as_ref();
        if membership.is_some_and(BoundExpression::looks_up) && !self.may_concern(&view, scratch) {
            return;
        }
        let facts = self.facts(&view, membership);
        if is_in_trouble() {
            return;
        }
        let decided = decide(facts);
        if let ([None, None], Some(membership)) = (&decided, membership) {
            let side = if facts.operation == Operation::Delete { Side::Old } else { Side::New };
            let view = view.from(side);
            self.let_go(&view, scratch, || Why::Where(membership.unmet(&view)));
        }
        for told in decided.into_iter().flatten() {
            let view = View { action: told.action, side: told.side, ..view };
            if !self.on[told.action as usize] {
                self.let_go(&view, scratch, || self.only_on());
                continue;
            }
            match self.passes(&view, facts) {
                Passes::Yes => {}
                Passes::NotChanged => {
                    self.let_go(&view, scratch, || self.not_changed(&view));
                    continue;
                }
                Passes::NotWhen(when) => {
                    self.let_go(&view, scratch, || Why::When(when.unmet(&view)));
                    continue;
                }
            }
            if is_in_trouble() {
                return;
            }
            let view = View { action: self.action.unwrap_or(told.action), ..view };
            if demand != Demand::Notification
                && self.count(told.rows, demand, &view, scratch, counts)
            {
                continue;
            }
            for told in self.by_id(told, &view, scratch).into_iter().flatten() {
                let view = view.from(told.side);
                let mut letter = self.letter(told.rows, &view, options, scratch, counts);
                letter.trashed = facts.trashed();
                self.post(letter, &view, options.max_data_bytes, scratch, out);
            }
        }
    }

    /// Without `membership` every row is one.
    fn facts(&self, view: &View<'_>, membership: Option<&BoundExpression>) -> Facts {
        let operation = view.change.operation;
        let member = |side, exists: bool| match membership {
            Some(condition) if exists => condition.holds(&view.from(side)),
            _ => Some(true),
        };
        let is_set = |scope| match self.soft_delete {
            BoundSoftDelete::None => Some(false),
            BoundSoftDelete::Unknown => None,
            BoundSoftDelete::Column(column) => match view.value(scope, column) {
                Known::Null => Some(false),
                Known::Text(_) => Some(true),
                Known::Unknown => None,
            },
        };
        let key = &view.change.relation.primary_key;
        Facts {
            operation,
            key_changed: operation == Operation::Update
                && key.iter().any(|column| view.change.column_changed(*column) == Some(true)),
            was_member: member(Side::Old, operation != Operation::Insert),
            is_member: member(Side::New, operation != Operation::Delete),
            was_deleted: is_set(Scope::Old),
            is_deleted: is_set(Scope::New),
            read_as: self.read_as,
        }
    }

    /// Whether `changed` and `when` let it pass.
    fn passes(&self, view: &View<'_>, facts: Facts) -> Passes<'_> {
        // A row that may just have become a member is news, whichever column
        // made it one.
        let sure_member = facts.was_member.is_some() && facts.is_member.is_some();
        if let Some(columns) = self.changed.as_ref().filter(|_| sure_member)
            && view.action == Action::Updated
        {
            let is_same = |column| view.change.column_changed(column) == Some(false);
            if columns.iter().all(|column| column.is_some_and(is_same)) {
                return Passes::NotChanged;
            }
        }
        match &self.when {
            Some(when) if when.holds(view) == Some(false) => Passes::NotWhen(when),
            Some(_) | None => Passes::Yes,
        }
    }

    /// Notes why nobody is told, where that is asked for.
    fn let_go(&self, view: &View<'_>, scratch: &mut Scratch, why: impl FnOnce() -> Why) {
        let Some(noted) = &mut scratch.let_go else { return };
        let mut id = String::new();
        if self.write_id(view, &mut id).is_err() {
            id.replace_range(.., "null");
        }
        let let_go = LetGo {
            place: 0,
            at: view.change.transaction.at,
            table: self.names.table.clone(),
            id: id.into(),
            action: view.action,
            rule: Some(self.name().clone()),
            why: why(),
        };
        // What holds for both rows is said once.
        if !noted.contains(&let_go) {
            noted.push(let_go);
        }
    }

    fn only_on(&self) -> Why {
        Why::On(Action::ALL.into_iter().filter(|action| self.on[*action as usize]).collect())
    }

    fn not_changed(&self, view: &View<'_>) -> Why {
        let name = |column: usize| view.change.relation.columns[column].name.clone();
        let columns = self.changed.iter().flatten().flatten();
        let changed = view.changed().map(|columns| columns.map(|it| name(it.into())).collect());
        Why::Changed { columns: columns.map(|column| name(*column)).collect(), changed }
    }

    /// Whether the change may be news, whatever `where` says of it.
    fn may_concern(&self, view: &View<'_>, scratch: &mut Scratch) -> bool {
        let facts = self.facts(view, None);
        // What happened to a row that stays is known only by `where`.
        let stays = facts.operation == Operation::Update && !facts.key_changed;
        let on = |action| stays || self.on[action as usize];
        let when =
            self.when.as_ref().filter(|when| !(when.looks_up() || stays && when.tells_before()));
        decide(facts).into_iter().flatten().any(|told| {
            let view = View { action: told.action, side: told.side, ..*view };
            if !on(told.action) {
                self.let_go(&view, scratch, || self.only_on());
                return false;
            }
            match when {
                Some(when) if when.holds(&view) == Some(false) => {
                    self.let_go(&view, scratch, || Why::When(when.unmet(&view)));
                    false
                }
                Some(_) | None => true,
            }
        })
    }

    /// A row that stays but announces another entity than before (a child moved
    /// to another parent) is told of both, each on its own row's channels.
    fn by_id(
        &self,
        told: Announcement,
        view: &View<'_>,
        scratch: &mut Scratch,
    ) -> [Option<Announcement>; 2] {
        if told.rows != Rows::Both || !matches!(self.id, BoundId::Template(_)) {
            return [Some(told), None];
        }
        let id = |side, out: &mut String| {
            out.clear();
            self.write_id(&view.from(side), out)
        };
        let old = id(Side::Old, &mut scratch.id);
        let new = id(Side::New, &mut scratch.text);
        if old == new && scratch.id == scratch.text {
            return [Some(told), None];
        }
        [
            Some(Announcement { side: Side::Old, rows: Rows::Old, ..told }),
            Some(Announcement { side: Side::New, rows: Rows::New, ..told }),
        ]
    }

    fn write_id(&self, view: &View<'_>, out: &mut String) -> Result<(), Unrenderable> {
        let columns = match &self.id {
            BoundId::Template(template) => return template.json(view, out),
            BoundId::PrimaryKey(columns) => columns,
        };
        write_key(view, columns, out)
    }

    /// Counts it, and says whether it could. What is counted with its channels has one
    /// that cannot be named refused, and told of by itself. What else would be refused,
    /// an id or a payload, is not looked at: the resync tells of it.
    fn count(
        &self,
        rows: Rows,
        demand: Demand,
        view: &View<'_>,
        Scratch { text, counted, .. }: &mut Scratch,
        counts: &mut Counts,
    ) -> bool {
        if demand == Demand::Count {
            counted.changes += 1;
            counted.is_all = true;
            return true;
        }
        let (names, mut is_told, mut left_out) = (counted.names.len(), false, 0);
        for side in rows.sides() {
            let view = view.from(*side);
            for channel in &self.channels {
                match channel.hash(&view, text) {
                    Hashed::Constant => is_told = true,
                    Hashed::Name(name) => {
                        is_told = true;
                        counted.names.push(name);
                    }
                    Hashed::LeftOut => left_out += 1,
                    Hashed::Refused => {
                        counted.names.truncate(names);
                        return false;
                    }
                }
            }
        }
        counts.null_channels += left_out;
        counted.changes += u64::from(is_told);
        true
    }
}

/// A change of a table that no rule takes.
pub(super) fn untaken(change: &Change<'_>, options: &Options, place: usize) -> LetGo {
    let relation = change.relation;
    let names = Names { entity: "".into(), studly: "".into(), table: relation.table.clone() };
    let view = View {
        change,
        since: None,
        side: if change.operation == Operation::Delete { Side::Old } else { Side::New },
        action: plainly(change.operation),
        names: &names,
        fixed: &[],
        zone: &options.timezone,
        kin: None,
    };
    let mut id = String::new();
    if write_key(&view, &relation.primary_key, &mut id).is_err() {
        id.replace_range(.., "null");
    }
    LetGo {
        place,
        at: change.transaction.at,
        table: relation.table.clone(),
        id: id.into(),
        action: view.action,
        rule: None,
        why: Why::NoRule,
    }
}

/// What the operation is to whoever knows nothing of the rows.
fn plainly(operation: Operation) -> Action {
    match operation {
        Operation::Insert => Action::Created,
        Operation::Update | Operation::Read => Action::Updated,
        Operation::Delete => Action::Deleted,
    }
}

/// The view's row's values of `columns`.
fn write_key(view: &View<'_>, columns: &[usize], out: &mut String) -> Result<(), Unrenderable> {
    let relation = &view.change.relation;
    let write = |column: usize, out: &mut String| match view.value(Scope::Row, column) {
        Known::Text(bytes) => {
            write_json(out, relation.columns[column].kind, bytes, view.zone);
            Ok(())
        }
        Known::Null => {
            out.push_str("null");
            Ok(())
        }
        Known::Unknown => {
            let name = &relation.columns[column].name;
            Err(Unrenderable(format!("the row does not carry {name}")))
        }
    };
    match columns {
        [] => Err(Unrenderable("the table has no primary key".to_owned())),
        [column] => write(*column, out),
        columns => {
            for (index, column) in columns.iter().enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                write_string(out, &relation.columns[*column].name);
                out.push(':');
                write(*column, out)?;
            }
            out.push('}');
            Ok(())
        }
    }
}
