//! Updates of `posts`, in transactions of one shape or another.

use crate::harness::database::Database;

/// Rows that somebody looks at: the last transaction changes them all, so what tells of the last change is the last
/// that tells of any.
pub(crate) const OCCUPIED: usize = 100;
const ROWS: usize = 100_000;
const ROWS_PER_TRANSACTION: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Transactions of a hundred rows.
    Many,
    /// One transaction, of every row.
    One,
    /// A transaction for each row.
    Single,
}

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::Many, Self::One, Self::Single];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Many => "many",
            Self::One => "one",
            Self::Single => "single",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) shape: Shape,
    /// Before the last transaction.
    changes: usize,
}

/// What became of one row.
#[derive(Clone, Copy)]
pub(crate) struct Updated {
    pub(crate) times: u32,
    /// When at the latest, as digits: `YYMMDDHHMMSS` and microseconds.
    pub(crate) last_at: u64,
}

impl Load {
    /// As large as the issue has it, or with so many changes.
    pub(crate) fn new(shape: Shape, changes: Option<usize>) -> Self {
        let changes = changes.unwrap_or(match shape {
            Shape::Many | Shape::One => 1_000_000,
            Shape::Single => 100_000,
        });
        assert!(
            changes > 0 && changes.is_multiple_of(OCCUPIED * ROWS_PER_TRANSACTION),
            "{changes} changes: a multiple of {} can be made",
            OCCUPIED * ROWS_PER_TRANSACTION
        );
        Self { shape, changes }
    }

    pub(crate) fn title(self) -> String {
        let Self { changes, .. } = self;
        match self.shape {
            Shape::Many => {
                format!("{changes} updates in {} transactions", changes / ROWS_PER_TRANSACTION)
            }
            Shape::One => format!("one transaction of {changes} updates"),
            Shape::Single => format!("{changes} transactions of one update"),
        }
    }

    pub(crate) fn rows(self) -> usize {
        match self.shape {
            Shape::One => self.changes,
            Shape::Many | Shape::Single => ROWS,
        }
    }

    /// Rising.
    pub(crate) fn occupied(self) -> impl Iterator<Item = usize> {
        let step = self.rows() / OCCUPIED;
        (1..=OCCUPIED).map(move |nth| nth * step)
    }

    /// As a Laravel migration and a seeder leave it.
    pub(crate) async fn seed(self, database: &Database) {
        let rows = self.rows();
        database
            .psql(&format!(
                "create table posts (
                     id bigserial primary key, user_id bigint not null, category_id bigint,
                     title text not null, slug text not null, content text not null,
                     status text not null default 'draft', views int not null default 0,
                     created_at timestamp, updated_at timestamp, deleted_at timestamp);
                 insert into posts (user_id, category_id, title, slug, content, status, created_at, updated_at)
                     select n % 1000, n % 20, 'Title ' || n, 'title-' || n, repeat('lorem ipsum ', 20),
                            'published', now(), now()
                     from generate_series(1, {rows}) n;"
            ))
            .await;
    }

    /// Returns what became of each row, in the order of ids; the first of them is 1.
    pub(crate) async fn write(self, database: &Database) -> Vec<Updated> {
        let (changes, rows) = (self.changes, self.rows());
        let update = "update posts set views = views + 1, updated_at = clock_timestamp()";
        let in_turn = |transactions: usize, each: usize| {
            let blocks = rows / each;
            let step = rows / OCCUPIED;
            format!(
                "do $$ begin
                     for t in 0..{transactions} - 1 loop
                         {update} where id > t % {blocks} * {each} and id <= (t % {blocks} + 1) * {each};
                         commit;
                     end loop;
                 end $$;
                 {update} where id % {step} = 0;"
            )
        };
        let (script, last) = match self.shape {
            Shape::Many => {
                (in_turn(changes / ROWS_PER_TRANSACTION, ROWS_PER_TRANSACTION), OCCUPIED)
            }
            Shape::Single => (in_turn(changes, 1), OCCUPIED),
            Shape::One => (update.to_owned(), 0),
        };
        database.psql(&format!("{script}; checkpoint;")).await;
        let written =
            "select views, to_char(updated_at, 'YYMMDDHH24MISSUS') from posts order by id";
        let written = database.psql(written).await;
        let updated: Vec<Updated> = written.lines().map(Updated::of).collect();
        let written: usize = updated.iter().map(|row| row.times as usize).sum();
        assert_eq!(written, changes + last, "the load is what was asked for");
        updated
    }
}

impl Updated {
    fn of(line: &str) -> Self {
        let (times, last_at) = line.split_once('|').expect("two columns");
        let number = "it is a number";
        Self { times: times.parse().expect(number), last_at: last_at.parse().expect(number) }
    }
}
