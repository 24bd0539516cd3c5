//! What is to be there for the rules, held against what is.

use super::capture::{self, Capture, Operation, columns};
use super::{Fires, Outbox, Shape, Trigger};
use crate::postgres::catalog::{Role, Table};
use crate::postgres::need::{Need, Wanted, wanted};
use crate::postgres::snapshot::Snapshot;

/// A table that rules take, and what triggers are to write of its rows.
#[derive(Debug)]
pub struct Goal<'a> {
    pub root: &'a Table,
    /// Those that get triggers: its partitions, at each level, before itself.
    pub tables: Vec<&'a Table>,
    pub shape: Shape,
    /// Whether `rowcast.shapes` has it already.
    pub has_shape: bool,
    pub functions: [capture::Function; 4],
    /// The SQL that makes a table's triggers, in the order of `tables`.
    pub triggers: Vec<String>,
}

/// How one trigger of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    InOrder,
    /// It is not there, or does something else.
    Missing,
    /// It does not fire always.
    Off(Fires),
}

/// One for each table that triggers can serve.
pub fn goals<'a>(snapshot: &'a Snapshot, needs: &'a [Need]) -> Vec<Goal<'a>> {
    let nothing = Outbox::default();
    let outbox = snapshot.outbox.as_ref().unwrap_or(&nothing);
    let mut next_shape = outbox.shapes.iter().map(|shape| shape.id).max().unwrap_or(0) + 1;
    let served = wanted(&snapshot.tables, needs).into_iter().filter(|one| refusal(*one).is_none());
    served
        .map(|wanted| {
            let goal = goal(snapshot, outbox, wanted, next_shape);
            next_shape += i32::from(!goal.has_shape);
            goal
        })
        .collect()
}

/// Why triggers cannot serve a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An UPDATE's old and new rows could not be told to be the same one.
    NoPrimaryKey,
    /// A statement on the partitioned table fires that one's triggers only.
    PartitionAlone { root: u32 },
}

pub fn refusal(wanted: Wanted<'_>) -> Option<Refusal> {
    if let Some(root) = wanted.table.role.root() {
        return Some(Refusal::PartitionAlone { root });
    }
    wanted.table.relation.primary_key.is_empty().then_some(Refusal::NoPrimaryKey)
}

fn goal<'a>(
    snapshot: &'a Snapshot,
    outbox: &Outbox,
    wanted: Wanted<'a>,
    next_shape: i32,
) -> Goal<'a> {
    let root = wanted.table;
    let columns = columns(root, wanted.need);
    let names: Vec<Box<str>> =
        columns.iter().map(|column| root.relation.columns[*column].name.clone()).collect();
    let found = outbox.shape_of(root.relation.oid).filter(|shape| shape.columns == names);
    let has_shape = found.is_some();
    let shape = found.cloned().unwrap_or(Shape {
        id: next_shape,
        relation: root.relation.oid,
        columns: names,
    });
    let capture = Capture::of(root, &columns, shape.id);
    let tables = captured(&snapshot.tables, root);
    let triggers = tables.iter().map(|table| capture.triggers(table)).collect();
    Goal { root, tables, has_shape, functions: capture.functions(), triggers, shape }
}

fn captured<'a>(tables: &'a [Table], root: &'a Table) -> Vec<&'a Table> {
    let oid = Some(root.relation.oid);
    let leaves = tables.iter().filter(|table| matches!(table.role, Role::Leaf { .. }));
    let between = tables.iter().filter(|table| matches!(table.role, Role::Partitioned { .. }));
    let partitions = leaves.chain(between).filter(|table| table.role.root() == oid);
    partitions.chain([root]).collect()
}

impl Goal<'_> {
    pub fn standing(&self, outbox: &Outbox, table: &Table, operation: Operation) -> Standing {
        let function = &self.functions[operation as usize].name;
        let is_it = |trigger: &&Trigger| {
            trigger.relation == table.relation.oid
                && *trigger.name == *operation.trigger()
                && *trigger.function == **function
                && trigger.is_for(operation)
        };
        match outbox.triggers.iter().find(is_it).map(|trigger| trigger.fires) {
            None => Standing::Missing,
            Some(Fires::Always) => Standing::InOrder,
            Some(fires) => Standing::Off(fires),
        }
    }

    /// Whether all of a table's triggers are in order.
    pub fn stands(&self, outbox: &Outbox, table: &Table) -> bool {
        let mut all = Operation::ALL.into_iter();
        all.all(|operation| self.standing(outbox, table, operation) == Standing::InOrder)
    }

    /// Whether any trigger calls one of the functions.
    pub fn is_called(&self, outbox: &Outbox) -> bool {
        outbox.captures().any(|trigger| {
            self.functions.iter().any(|function| *function.name == *trigger.function)
        })
    }

    /// Whether the functions are there as they are to be.
    pub fn has_functions(&self, outbox: &Outbox, role: &str) -> bool {
        self.functions.iter().all(|function| {
            let found = outbox.functions.iter().find(|found| *found.name == *function.name);
            found.is_some_and(|found| {
                *found.owner == *role
                    && *found.body == *function.body
                    && found.security_definer
                    && !found.is_for_all
                    && found.settings.iter().map(|it| &**it).eq(function.settings.iter())
            })
        })
    }
}

impl Trigger {
    /// Whether it fires once for each such statement, and has its rows.
    fn is_for(&self, operation: Operation) -> bool {
        let (events, old, new) = match operation {
            Operation::Insert => (4, None, Some("new_rows")),
            Operation::Delete => (8, Some("old_rows"), None),
            Operation::Update => (16, Some("old_rows"), Some("new_rows")),
            Operation::Truncate => (32, None, None),
        };
        self.events == events
            && self.is_unconditional
            && self.old_rows.as_deref() == old
            && self.new_rows.as_deref() == new
    }
}
