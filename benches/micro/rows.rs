//! Updates of a table of posts, decoded.

use std::sync::Arc;

use jiff::tz::TimeZone;
use rowcast::{
    change::{
        Batch, BatchBuilder, Field, Item, Operation, Parents, Position, Relation, Timestamp,
        Transaction,
    },
    notification::{Demand, Handoff},
    route::{Options, Router, Rules},
};

use crate::stream;

pub(crate) const ROWS: usize = 10_000;
const ROWS_PER_TRANSACTION: usize = 100;
const RULE: &str = "table = 'posts'\nchannels = ['private-posts.{{ id }}', 'private-posts']";

/// One for each transaction; each row is another one.
pub(crate) fn batches() -> Vec<Batch> {
    let relation = Arc::new(stream::catalog().remove(0));
    (0..ROWS / ROWS_PER_TRANSACTION).map(|index| batch(index, &relation)).collect()
}

fn batch(index: usize, relation: &Arc<Relation>) -> Batch {
    let position = Position::new(2 * index as u64 + 1);
    let transaction = Transaction { xid: 7, at: Timestamp::from_unix_micros(0), position };
    let (mut builder, mut bytes) = (BatchBuilder::default(), Vec::new());
    for row in 0..ROWS_PER_TRANSACTION {
        let start = builder.fields.len();
        for column in 0..relation.columns.len() {
            let from = bytes.len();
            match column {
                0 => bytes.extend((index * ROWS_PER_TRANSACTION + row).to_string().bytes()),
                _ => bytes.extend(b"published"),
            }
            builder.fields.extend(Field::text(from..bytes.len()));
        }
        let new = start..builder.fields.len();
        builder.change(relation, Operation::Update, transaction, None, Some(new));
    }
    builder.reached(position);
    builder.finish(bytes.into())
}

/// By one rule with two channels, which knows the table, and of which so much is wanted.
pub(crate) fn router(batches: &[Batch], demand: Demand) -> Router {
    let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: false };
    let rule = toml::from_str(RULE).expect("a rule");
    let rules = Rules::compile(vec![rule], options).expect("it is right");
    let mut router = Router::new(Arc::new(rules));
    route(&mut router, &batches[0]);
    router.terms().for_each(|terms| terms.demanded.set(demand));
    router
}

pub(crate) fn route(router: &mut Router, batch: &Batch) -> Handoff {
    let (mut missing, mut handoff) = (Default::default(), Handoff::default());
    for item in batch.items() {
        match item {
            Item::Change(change) => router
                .route(&change, &Parents::default(), &mut missing, &mut handoff)
                .expect("the table keeps its name"),
            Item::Reached(position) => handoff.reached = Some(position),
            _ => unreachable!("there are only changes"),
        }
    }
    handoff
}
