use std::collections::HashMap;
use std::sync::Arc;

use super::super::Wanted;
use crate::change::{Relation, ReplicaIdentity};

/// What `rowcast.shapes` says of a row's columns.
#[derive(Clone, Debug)]
pub(super) struct ShapeRow {
    pub(super) id: i32,
    pub(super) relation: u32,
    pub(super) columns: Vec<String>,
}

/// What the arrays of the outbox's rows consist of, by the catalog. Pure.
pub(super) struct Shapes {
    shapes: HashMap<i32, Shape>,
    wanted: Wanted,
}

#[derive(Debug)]
pub(super) struct Shape {
    /// `None` for a table that the catalog never had: it was dropped before we
    /// came.
    pub(super) relation: Option<Arc<Relation>>,
    /// For each value of the array: which column of the relation it is. `None` for
    /// one that the catalog does not have: it was dropped, or renamed.
    pub(super) columns: Vec<Option<usize>>,
    /// Whether rules need a column that is not among them: the row was written
    /// before they named it.
    pub(super) is_short: bool,
}

impl Shapes {
    pub(super) fn new(wanted: Wanted) -> Shapes {
        Shapes { shapes: HashMap::new(), wanted }
    }

    pub(super) fn get(&self, id: i32) -> Option<&Shape> {
        self.shapes.get(&id)
    }

    /// The shapes as they are now, and the tables as the catalog has them now. A
    /// table that is gone from it stays as it was.
    pub(super) fn learn(&mut self, rows: Vec<ShapeRow>, catalog: Vec<Relation>) {
        let mut relations: HashMap<u32, Arc<Relation>> = HashMap::new();
        for shape in self.shapes.values() {
            if let Some(relation) = &shape.relation {
                relations.insert(relation.oid, relation.clone());
            }
        }
        for relation in catalog {
            let relation = captured(relation);
            // One that is the same stays the same: who knows it need not learn it
            // again.
            match relations.get(&relation.oid) {
                Some(known) if **known == relation => {}
                _ => {
                    relations.insert(relation.oid, Arc::new(relation));
                }
            }
        }
        let shape = |ShapeRow { id, relation, columns }: ShapeRow| {
            let relation = relations.get(&relation).cloned();
            let column = |name: &String| relation.as_ref()?.column(name);
            let columns: Vec<Option<usize>> = columns.iter().map(column).collect();
            let wanted = relation.as_ref().map(|it| (self.wanted)(it)).unwrap_or_default();
            let mut wanted = wanted.iter().enumerate().filter(|(_, is_wanted)| **is_wanted);
            let is_short = wanted.any(|(column, _)| !columns.contains(&Some(column)));
            (id, Shape { relation, columns, is_short })
        };
        self.shapes = rows.into_iter().map(shape).collect();
    }

    /// The table of this OID, if rows of it may come.
    pub(super) fn relation(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.shapes
            .values()
            .filter_map(|shape| shape.relation.as_ref())
            .find(|relation| relation.oid == oid)
    }
}

/// Triggers write old rows as they write new ones, whatever the replica identity
/// says. What they leave out is unknown in both.
fn captured(mut relation: Relation) -> Relation {
    relation.identity = ReplicaIdentity::Full;
    for column in &mut relation.columns {
        column.in_identity = true;
    }
    relation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, Kind, TableName};

    fn posts() -> Relation {
        let column = |name: &str| Column {
            name: name.into(),
            kind: Kind::Text,
            in_identity: false,
            nullable: true,
        };
        Relation {
            oid: 7,
            table: TableName::new("public", "posts"),
            renamed: None,
            columns: ["id", "title", "body"].map(column).into(),
            identity: ReplicaIdentity::Default,
            primary_key: vec![0],
        }
    }

    fn row(id: i32, columns: &[&str]) -> ShapeRow {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        ShapeRow { id, relation: 7, columns }
    }

    #[test]
    fn a_shape_without_a_column_that_rules_need_is_short() {
        let mut shapes = Shapes::new(Box::new(|_| vec![true, true, false]));
        let rows = vec![row(1, &["id"]), row(2, &["title", "id"]), row(3, &["id", "gone"])];
        shapes.learn(rows, vec![posts()]);
        let is_short = [1, 2, 3].map(|id| shapes.get(id).expect("it is known").is_short);
        assert_eq!(is_short, [true, false, true]);
    }
}
