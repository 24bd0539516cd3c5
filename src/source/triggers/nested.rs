use std::collections::HashMap;

use super::rows::{OutboxRow, Values};
use super::shapes::{Shape, Shapes};

/// Puts rows of one transaction, which are in the order of their ids, in the order
/// in which they were changed.
///
/// Triggers write after their statement. Where a trigger of the application's own
/// changes a row that its statement has just changed, that is written first: a
/// page would be told last what the row was in between. What a row was before and
/// after each change tells them apart. Pure.
pub(super) fn unnest(rows: &mut [OutboxRow], bytes: &[u8], shapes: &Shapes) {
    if rows.len() < 2 {
        return;
    }
    let mut by_key: HashMap<(u32, Vec<&[u8]>), Vec<usize>> = HashMap::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let shape = row.shape.and_then(|shape| shapes.get(shape));
        if let Some(key) = shape.and_then(|shape| key_of(row, bytes, shape)) {
            by_key.entry(key).or_default().push(index);
        }
    }
    let mut moved = Vec::new();
    for slots in by_key.into_values().filter(|slots| slots.len() > 1) {
        let order = in_order(&slots, rows, bytes);
        if order != slots {
            moved.extend(slots.into_iter().zip(order.into_iter().map(|at| rows[at].clone())));
        }
    }
    for (slot, row) in moved {
        rows[slot] = row;
    }
}

/// The rows of one key, each after the one that made what it changed. Those of
/// which that cannot be said stay where they are.
fn in_order(slots: &[usize], rows: &[OutboxRow], bytes: &[u8]) -> Vec<usize> {
    let before = |at: usize| rows[at].old.clone().map(|range| &bytes[range]);
    let after = |at: usize| rows[at].new.clone().map(|range| &bytes[range]);
    let mut order: Vec<usize> = Vec::with_capacity(slots.len());
    for slot in slots.iter().copied() {
        let follows = |place: usize| match place.checked_sub(1) {
            Some(last) => after(order[last]) == before(slot),
            None => true,
        };
        let is_nested = |at: &usize| rows[*at].at == rows[slot].at;
        let first = order.len() - order.iter().rev().take_while(|at| is_nested(at)).count();
        let place = match order.is_empty() || follows(order.len()) {
            true => None,
            false => (first..order.len())
                .find(|place| follows(*place) && after(slot) == before(order[*place])),
        };
        order.insert(place.unwrap_or(order.len()), slot);
    }
    order
}

/// The table and the values of its primary key. `None` for what is of no row.
fn key_of<'a>(row: &OutboxRow, bytes: &'a [u8], shape: &Shape) -> Option<(u32, Vec<&'a [u8]>)> {
    let relation = shape.relation.as_ref()?;
    let image = row.new.clone().or(row.old.clone())?;
    let mut key = vec![None; relation.primary_key.len()];
    let mut left = key.len();
    for (value, column) in Values::of(bytes, image).ok()?.zip(&shape.columns) {
        let place = relation.primary_key.iter().position(|key| Some(*key) == *column);
        if let Some(place) = place {
            key[place] = bytes.get(value.ok()??);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    Some((relation.oid, key.into_iter().collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::array;
    use super::super::shapes::ShapeRow;
    use super::*;
    use crate::change::{Column, Kind, Relation, ReplicaIdentity, TableName, Timestamp};

    const OID: u32 = 7;

    fn shapes() -> Shapes {
        let column = |name: &str| Column {
            name: name.into(),
            kind: Kind::Text,
            in_identity: false,
            nullable: true,
        };
        let relation = Relation {
            oid: OID,
            table: TableName::new("public", "posts"),
            renamed: None,
            identity: ReplicaIdentity::Default,
            columns: vec![column("title"), column("id")],
            primary_key: vec![1],
        };
        let columns = ["title", "id"].map(str::to_owned).into();
        let mut shapes = Shapes::new(Box::new(|_| Vec::new()));
        shapes.learn(vec![ShapeRow { id: 1, relation: OID, columns }], vec![relation]);
        shapes
    }

    /// `u 1 a b`: operation, id, old and new title; `-` for no row, `.` for a row of no table.
    /// Those of one statement of the client stand together.
    fn unnested(statements: &[&[&str]]) -> Vec<String> {
        let mut bytes = Vec::new();
        let mut rows = Vec::new();
        let mut words = Vec::new();
        for (at, statement) in statements.iter().enumerate() {
            for word in *statement {
                let mut parts = word.split(' ');
                let operation = parts.next().unwrap_or_default().as_bytes()[0];
                let id = parts.next();
                let mut image = || {
                    let title = parts.next().filter(|title| *title != "-")?;
                    let start = bytes.len();
                    bytes.extend(array(&[Some(title), id]));
                    Some(start..bytes.len())
                };
                rows.push(OutboxRow {
                    xid: 1,
                    id: rows.len() as i64,
                    at: Timestamp::from_unix_micros(at as i64),
                    shape: (operation != b'.').then_some(1),
                    operation,
                    old: image(),
                    new: image(),
                });
                words.push((*word).to_owned());
            }
        }
        unnest(&mut rows, &bytes, &shapes());
        rows.iter().map(|row| words[usize::try_from(row.id).unwrap()].clone()).collect()
    }

    #[test]
    fn what_a_trigger_changed_in_its_statement_comes_after_that() {
        for (written, expected) in [
            (&["u 1 z Z", "u 1 c z"][..], &["u 1 c z", "u 1 z Z"][..]),
            (&["u 1 a b", "i 1 - a"], &["i 1 - a", "u 1 a b"]),
            (&["i 1 - b", "d 1 a -"], &["d 1 a -", "i 1 - b"]),
            (&["d 1 b -", "u 1 a b"], &["u 1 a b", "d 1 b -"]),
            (&["u 1 a c", "u 1 c z", "u 1 z Z"], &["u 1 a c", "u 1 c z", "u 1 z Z"]),
            (&["u 1 a c", "u 1 z Z", "u 1 c z"], &["u 1 a c", "u 1 c z", "u 1 z Z"]),
            (&["u 1 c d", "u 1 b c", "u 1 a b"], &["u 1 a b", "u 1 b c", "u 1 c d"]),
            (
                &["u 1 z Z", "u 2 y Y", "u 1 c z", ". - -", "u 2 c y"],
                &["u 1 c z", "u 2 c y", "u 1 z Z", ". - -", "u 2 y Y"],
            ),
        ] {
            assert_eq!(unnested(&[written]), expected);
        }
    }

    #[test]
    fn what_was_changed_one_after_the_other_stays_so() {
        for rows in [
            &["i 1 - a", "u 1 a b", "d 1 b -", "i 1 - a"][..],
            &["u 1 a b", "u 1 b a", "u 1 a b"],
            &["u 1 a a", "u 1 a a"],
            &["d 1 a -", "i 2 - a", "i 1 - a"],
            &["u 1 a b", "u 1 x y"],
        ] {
            assert_eq!(unnested(&[rows]), rows);
        }
        // Of another statement of the client's, none is within this one.
        assert_eq!(unnested(&[&["u 1 z Z"], &["u 1 c z"]]), ["u 1 z Z", "u 1 c z"]);
    }
}
