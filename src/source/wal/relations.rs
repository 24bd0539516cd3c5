use std::collections::HashMap;
use std::sync::Arc;

use super::super::Wanted;
use super::pgoutput::{ColumnMessage, RelationMessage};
use crate::change::{Column, Kind, Relation, ReplicaIdentity, TableName};

/// Types that the database's users made have OIDs from here on
/// (`FirstNormalObjectId`); domains are among them.
const FIRST_USER_OID: u32 = 16384;

/// The relations of a session by OID, as the stream last described them: rows
/// are in *their* column order, which after a migration is not the catalog's.
#[derive(Debug, Default)]
pub(super) struct Relations {
    catalog: HashMap<u32, Relation>,
    /// By OID, which rises.
    known: Vec<Known>,
}

/// A relation that the stream has described.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) relation: Arc<Relation>,
    /// Of each column, whether a rule needs its value.
    pub(super) wanted: Vec<bool>,
    asked_for: Option<Vec<bool>>,
}

impl Known {
    fn new(relation: Relation, wanted: Vec<bool>) -> Known {
        let asked_for = match relation.identity {
            // Old rows are whole, so it is known of every column whether it changed.
            ReplicaIdentity::Full => None,
            _ => {
                let columns = relation.columns.iter().zip(&wanted);
                Some(columns.map(|(column, wanted)| column.in_identity || *wanted).collect())
            }
        };
        Known { relation: Arc::new(relation), wanted, asked_for }
    }

    /// Of each column, whether its value tells a rule anything. `None` if all do.
    pub(super) fn asked_for(&self) -> Option<&[bool]> {
        self.asked_for.as_deref()
    }
}

impl Relations {
    pub(super) fn new(catalog: Vec<Relation>) -> Relations {
        let mut relations = Relations::default();
        relations.learn(catalog);
        relations
    }

    /// Takes what the catalog says now, for relations described from here on.
    pub(super) fn learn(&mut self, catalog: Vec<Relation>) {
        self.catalog = catalog.into_iter().map(|relation| (relation.oid, relation)).collect();
    }

    pub(super) fn get(&self, oid: u32) -> Option<&Known> {
        self.place(oid).ok().map(|at| &self.known[at])
    }

    fn place(&self, oid: u32) -> Result<usize, usize> {
        self.known.binary_search_by_key(&oid, |known| known.relation.oid)
    }

    /// Whether the catalog was read before the table became what `message` says.
    pub(super) fn is_news(&self, message: &RelationMessage<'_>) -> bool {
        self.catalog.get(&message.oid).is_none_or(|relation| {
            relation.table != table(message)
                || relation.identity != message.identity
                || message.columns.iter().any(|column| relation.column(column.name).is_none())
        })
    }

    /// Replaces what was known of the relation.
    pub(super) fn put(&mut self, message: &RelationMessage<'_>, wanted: &Wanted) {
        let catalog = self.catalog.get(&message.oid);
        let table = table(message);
        let relation = Relation {
            oid: message.oid,
            renamed: catalog.map(|now| &now.table).filter(|now| **now != table).cloned(),
            table,
            columns: message.columns.iter().map(|c| column(c, message.identity, catalog)).collect(),
            identity: message.identity,
            primary_key: primary_key(message, catalog),
        };
        let wanted = wanted(&relation);
        let known = Known::new(relation, wanted);
        match self.place(message.oid) {
            Ok(at) => self.known[at] = known,
            Err(at) => self.known.insert(at, known),
        }
    }
}

fn table(message: &RelationMessage<'_>) -> TableName {
    TableName::new(message.schema, message.name)
}

fn column(
    message: &ColumnMessage<'_>,
    identity: ReplicaIdentity,
    catalog: Option<&Relation>,
) -> Column {
    let known = catalog.and_then(|c| c.columns.iter().find(|k| *k.name == *message.name));
    let kind = match known {
        // The stream names a domain, the catalog resolves it to its base type.
        Some(known) if message.type_oid >= FIRST_USER_OID => known.kind,
        _ => Kind::of_type(message.type_oid),
    };
    let same_identity = known.filter(|_| catalog.is_some_and(|c| c.identity == identity));
    Column {
        name: message.name.into(),
        kind,
        // A partitioned table's flags are the root's, the old rows a
        // partition's: the catalog says what every partition carries.
        in_identity: message.in_identity && same_identity.is_none_or(|known| known.in_identity),
        nullable: known.is_none_or(|known| known.nullable),
    }
}

/// The primary key as indexes into the message's columns. With the default
/// replica identity the flagged columns are the key; the catalog gives their
/// order. With any other the flags say nothing of it.
fn primary_key(message: &RelationMessage<'_>, catalog: Option<&Relation>) -> Vec<usize> {
    let position = |name: &str| message.columns.iter().position(|column| column.name == name);
    let of_catalog: Option<Vec<usize>> = catalog.and_then(|relation| {
        relation.primary_key.iter().map(|i| position(&relation.columns[*i].name)).collect()
    });
    if message.identity != ReplicaIdentity::Default {
        return of_catalog.unwrap_or_default();
    }
    let flagged: Vec<usize> =
        (0..message.columns.len()).filter(|i| message.columns[*i].in_identity).collect();
    let same = |key: &Vec<usize>| {
        key.len() == flagged.len() && key.iter().all(|index| flagged.contains(index))
    };
    of_catalog.filter(same).unwrap_or(flagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(
        identity: ReplicaIdentity,
        columns: &[(&'a str, u32, bool)],
    ) -> RelationMessage<'a> {
        let columns = columns
            .iter()
            .map(|&(name, type_oid, in_identity)| ColumnMessage { name, type_oid, in_identity })
            .collect();
        RelationMessage { oid: 20000, schema: "public", name: "lines", identity, columns }
    }

    /// What the rules of these tests need.
    fn nothing() -> Wanted {
        Box::new(|relation| vec![false; relation.columns.len()])
    }

    fn catalog() -> Vec<Relation> {
        let column = |name: &str, kind| Column {
            name: name.into(),
            kind,
            in_identity: true,
            nullable: false,
        };
        vec![Relation {
            oid: 20000,
            table: TableName::new("public", "lines"),
            renamed: None,
            columns: vec![
                column("order_id", Kind::Integer),
                column("line", Kind::Integer),
                column("price", Kind::Numeric),
            ],
            identity: ReplicaIdentity::Full,
            primary_key: vec![1, 0],
        }]
    }

    #[test]
    fn with_full_identity_the_key_is_the_catalogs_not_the_flags() {
        let mut relations = Relations::new(catalog());
        let all = [("price", 30000, true), ("line", 23, true), ("order_id", 23, true)];
        relations.put(&message(ReplicaIdentity::Full, &all), &nothing());
        let relation = &relations.get(20000).unwrap().relation;
        assert_eq!(relation.primary_key, [1, 2]);
        assert_eq!(relation.columns[0].kind, Kind::Numeric, "a domain is what it is made of");
    }

    #[test]
    fn with_default_identity_the_flags_are_the_key_in_the_catalogs_order() {
        let mut relations = Relations::new(catalog());
        let default = [("order_id", 23, true), ("line", 23, true), ("price", 1700, false)];
        relations.put(&message(ReplicaIdentity::Default, &default), &nothing());
        assert_eq!(relations.get(20000).unwrap().relation.primary_key, [1, 0]);

        let other = [("order_id", 23, true), ("line", 23, false), ("price", 1700, false)];
        relations.put(&message(ReplicaIdentity::Default, &other), &nothing());
        assert_eq!(
            relations.get(20000).unwrap().relation.primary_key,
            [0],
            "the stream is nearer the row"
        );
    }

    #[test]
    fn what_tells_of_changes_is_asked_for_beside_what_rules_need() {
        let columns = [("order_id", 23, true), ("line", 23, false), ("price", 1700, false)];
        let price: Wanted = Box::new(|_| vec![false, false, true]);
        let mut relations = Relations::new(catalog());
        relations.put(&message(ReplicaIdentity::Default, &columns), &price);
        let asked_for = relations.get(20000).unwrap().asked_for();
        assert_eq!(asked_for, Some(&[true, false, true][..]));
        relations.put(&message(ReplicaIdentity::Full, &columns), &price);
        assert_eq!(relations.get(20000).unwrap().asked_for(), None, "old rows have every column");
    }

    #[test]
    fn a_column_that_the_catalog_lacks_is_news() {
        let relations = Relations::new(catalog());
        let same = [("order_id", 23, true), ("line", 23, true), ("price", 1700, true)];
        assert!(!relations.is_news(&message(ReplicaIdentity::Full, &same)));
        let added = [("order_id", 23, true), ("note", 25, true)];
        assert!(relations.is_news(&message(ReplicaIdentity::Full, &added)));
        assert!(Relations::default().is_news(&message(ReplicaIdentity::Full, &same)));
    }

    #[test]
    fn a_table_that_has_another_name_by_now_has_both() {
        let mut relations = Relations::new(catalog());
        let now = TableName::new("public", "lines");
        let columns = [("order_id", 23, true), ("line", 23, true), ("price", 1700, true)];
        for (schema, name) in [("public", "order_lines"), ("shop", "lines")] {
            let older =
                RelationMessage { schema, name, ..message(ReplicaIdentity::Full, &columns) };
            assert!(relations.is_news(&older));
            relations.put(&older, &nothing());
            let relation = &relations.get(20000).unwrap().relation;
            assert_eq!(relation.table, TableName::new(schema, name));
            assert_eq!(relation.renamed, Some(now.clone()));
        }
        relations.put(&message(ReplicaIdentity::Full, &columns), &nothing());
        assert_eq!(relations.get(20000).unwrap().relation.renamed, None);
    }
}
