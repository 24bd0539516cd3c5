use std::collections::HashMap;
use std::sync::Arc;

use crate::change::{Relation, ReplicaIdentity};

/// What `rowcast.shapes` says of a row's columns.
#[derive(Clone, Debug)]
pub(super) struct ShapeRow {
    pub(super) id: i32,
    pub(super) relation: u32,
    pub(super) columns: Vec<String>,
}

/// What the arrays of the outbox's rows consist of, by the catalog. Pure.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    shapes: HashMap<i32, Shape>,
}

#[derive(Debug)]
pub(super) struct Shape {
    /// `None` for a table that the catalog never had: it was dropped before we
    /// came.
    pub(super) relation: Option<Arc<Relation>>,
    /// For each value of the array: which column of the relation it is. `None` for
    /// one that the catalog does not have: it was dropped, or renamed.
    pub(super) columns: Vec<Option<usize>>,
}

impl Shapes {
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
            let columns = columns.iter().map(column).collect();
            (id, Shape { relation, columns })
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
