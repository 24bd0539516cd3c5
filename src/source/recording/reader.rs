use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::VERSION;
use super::line::{Columns, Line, Problem, Rows, Text};
use crate::change::{
    Batch, BatchBuilder, Broadcast, Context, Field, Operation, Position, Relation, Timestamp,
    Transaction,
};

/// Changes that were written down before.
///
/// Positions are those of when they were committed, and made to rise where several
/// sessions were recorded, so that each names one place of the file.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    lines: BufReader<File>,
    line: u64,
    text: Vec<u8>,
    relations: HashMap<u32, Arc<Relation>>,
    transaction: Option<Transaction>,
    context: Option<Arc<Context>>,
    /// What is added to positions.
    shift: u64,
    reached: u64,
    after: Position,
    has_broadcasts: bool,
}

/// Why a recording cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the recording {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}, line {line}: {problem}")]
    Line { path: PathBuf, line: u64, problem: Problem },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let Error::Line { path, line, problem } = self else { return None };
        match problem {
            Problem::NoRecording => Some("rowcast tail --record FILE makes a recording".to_owned()),
            Problem::CutShort => {
                Some(format!("head -n {} {} has all that is before it", line - 1, path.display()))
            }
            Problem::Version(_) => Some("read it with the rowcast that made it".to_owned()),
            _ => None,
        }
    }
}

/// What becomes one batch.
#[derive(Default)]
struct Building {
    batch: BatchBuilder,
    bytes: Vec<u8>,
    /// That were read for it.
    lines: usize,
}

impl Recording {
    /// Of one line, in bytes. A writer stays far below it.
    const MAX_LINE: u64 = 256 << 20;
    /// Of one batch, in bytes; and in fields, which are as large where rows are empty.
    const BATCH_BYTES: usize = 64 << 10;
    const BATCH_FIELDS: usize = 16 << 10;
    /// Those that are passed over count too: a stop does not wait for long.
    const BATCH_LINES: usize = 4 << 10;
    /// That Postgres allows in a table.
    const MAX_COLUMNS: usize = 1600;

    /// What was committed at or below `after` is passed over: what was told of this
    /// recording before.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn open(path: &Path, after: Option<Position>) -> Result<Recording, Error> {
        let file =
            File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut recording = Recording {
            path: path.to_owned(),
            lines: BufReader::new(file),
            line: 0,
            text: Vec::new(),
            relations: HashMap::new(),
            transaction: None,
            context: None,
            shift: 0,
            reached: 0,
            after: after.unwrap_or_default(),
            has_broadcasts: true,
        };
        match recording.read_line() {
            Ok(true) => {}
            Ok(false) => return Err(recording.refuse(Problem::NoRecording)),
            Err(error) => return Err(error),
        }
        match serde_json::from_slice(&recording.text) {
            Ok(Line::Recording { version: VERSION }) => Ok(recording),
            Ok(Line::Recording { version }) => Err(recording.refuse(Problem::Version(version))),
            Ok(_) | Err(_) => Err(recording.refuse(Problem::NoRecording)),
        }
    }

    /// The same without application events.
    #[must_use]
    pub fn without_broadcasts(self) -> Recording {
        Recording { has_broadcasts: false, ..self }
    }

    /// Hands on all changes, or those until `stop` turns true or its sender is gone.
    /// Blocks for the disk.
    ///
    /// # Errors
    /// With the first line that cannot be read. What is before it was handed on.
    pub async fn run(
        mut self,
        changes: mpsc::Sender<Batch>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        while let Some(batch) = self.next()? {
            tokio::select! {
                biased;
                // An error means that whoever could stop us is gone: stop then too.
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                permit = changes.reserve() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(batch);
                }
            }
        }
        Ok(())
    }

    /// The next changes, about as many as one read of a stream brings: perhaps
    /// none. `None` at the end.
    ///
    /// # Errors
    /// With the first line that cannot be read.
    #[expect(clippy::should_implement_trait, reason = "after an error there is no next")]
    pub fn next(&mut self) -> Result<Option<Batch>, Error> {
        let mut building = Building::default();
        building.batch.context.clone_from(&self.context);
        while !building.is_full() && self.read_line()? {
            let text = mem::take(&mut self.text);
            let taken = serde_json::from_slice(&text)
                .map_err(Problem::from)
                .and_then(|line| self.take(line, &mut building));
            self.text = text;
            taken.map_err(|problem| self.refuse(problem))?;
            building.lines += 1;
        }
        if building.is_full() {
            return Ok(Some(building.finish()));
        }
        self.end_transaction(&mut building);
        Ok((!building.batch.is_empty()).then(|| building.finish()))
    }

    /// Whether there is one more.
    fn read_line(&mut self) -> Result<bool, Error> {
        self.text.clear();
        let mut lines = (&mut self.lines).take(Recording::MAX_LINE);
        let read = lines.read_until(b'\n', &mut self.text);
        read.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        if self.text.is_empty() {
            return Ok(false);
        }
        self.line += 1;
        match self.text.pop() {
            Some(b'\n') => Ok(true),
            _ if self.text.len() as u64 + 1 == Recording::MAX_LINE => {
                Err(self.refuse(Problem::TooLong(Recording::MAX_LINE)))
            }
            _ if self.line == 1 => Err(self.refuse(Problem::NoRecording)),
            _ => Err(self.refuse(Problem::CutShort)),
        }
    }

    fn refuse(&self, problem: Problem) -> Error {
        Error::Line { path: self.path.clone(), line: self.line.max(1), problem }
    }

    fn take(&mut self, line: Line<'_>, building: &mut Building) -> Result<(), Problem> {
        match line {
            Line::Recording { version: VERSION } => {
                self.end_transaction(building);
                self.relations.clear();
                self.say(None, building);
            }
            Line::Recording { version } => return Err(Problem::Version(version)),
            Line::Relation(relation) => self.learn(relation.into_owned())?,
            Line::Transaction { xid, at, position } => self.begin(xid, &at, position)?,
            Line::Context(values) => self.say(values.map(Context::of), building),
            Line::Insert(rows) => self.change(Operation::Insert, rows, building)?,
            Line::Update(rows) => self.change(Operation::Update, rows, building)?,
            Line::Delete(rows) => self.change(Operation::Delete, rows, building)?,
            Line::Read(rows) => self.change(Operation::Read, rows, building)?,
            Line::Truncate { relation } => {
                let relation = self.relation(relation)?;
                if let Some(transaction) = self.told()? {
                    building.batch.truncate(relation, transaction);
                }
            }
            Line::Broadcast { channel, event, data } => {
                if let Some(transaction) = self.told()?.filter(|_| self.has_broadcasts) {
                    let (channel, event, data) = (channel.into(), event.into(), data.into());
                    building.batch.broadcast(Broadcast { channel, event, data }, transaction);
                }
            }
            Line::Missed { relation, why } => {
                let relation = relation.map(|oid| self.relation(oid)).transpose()?;
                if let Some(transaction) = self.told()? {
                    building.batch.missed(relation, why, transaction);
                }
            }
            Line::Reached(position) => {
                let position = position.checked_add(self.shift).ok_or(Problem::Position)?;
                self.reach(position, building);
            }
        }
        Ok(())
    }

    fn learn(&mut self, relation: Relation) -> Result<(), Problem> {
        let count = relation.columns.len();
        let mut key = relation.primary_key.iter();
        if count > Recording::MAX_COLUMNS || !key.all(|column| *column < count) {
            return Err(Problem::Table(relation.table));
        }
        self.relations.insert(relation.oid, Arc::new(relation));
        Ok(())
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, Problem> {
        self.relations.get(&oid).cloned().ok_or(Problem::UnknownTable(oid))
    }

    fn begin(&mut self, xid: u32, at: &str, position: u64) -> Result<(), Problem> {
        let at = Timestamp::parse(at).ok_or_else(|| Problem::Moment(at.to_owned()))?;
        let above = self.reached.checked_add(1).ok_or(Problem::Position)?;
        // Another session may count anew.
        self.shift = self.shift.max(above.saturating_sub(position));
        let position = position.checked_add(self.shift).ok_or(Problem::Position)?;
        self.transaction = Some(Transaction { xid, at, position: Position::new(position) });
        Ok(())
    }

    fn say(&mut self, context: Option<Context>, building: &mut Building) {
        self.context = context.map(Arc::new);
        building.batch.context.clone_from(&self.context);
    }

    /// The transaction, if it is to be told.
    fn told(&self) -> Result<Option<Transaction>, Problem> {
        let transaction = self.transaction.ok_or(Problem::NoTransaction)?;
        Ok(Some(transaction).filter(|transaction| transaction.position > self.after))
    }

    fn reach(&mut self, position: u64, building: &mut Building) {
        let ended = self.transaction.take().map_or(0, |ended| ended.position.value());
        self.reached = self.reached.max(position).max(ended);
        let position = Position::new(self.reached);
        if position > self.after {
            building.batch.reached(position);
        }
    }

    /// Where nothing says that it ended: the recording was stopped within it.
    fn end_transaction(&mut self, building: &mut Building) {
        if let Some(transaction) = self.transaction {
            self.reach(transaction.position.value(), building);
        }
    }

    fn change(
        &mut self,
        operation: Operation,
        rows: Rows<'_>,
        building: &mut Building,
    ) -> Result<(), Problem> {
        let relation = self.relation(rows.relation)?;
        let Some(transaction) = self.told()? else { return Ok(()) };
        match (operation, &rows.old, &rows.new) {
            (Operation::Insert | Operation::Read, None, Some(_))
            | (Operation::Update, _, Some(_))
            | (Operation::Delete, Some(_), None) => {}
            (Operation::Insert, ..) => return Err(Problem::Rows("insert")),
            (Operation::Update, ..) => return Err(Problem::Rows("update")),
            (Operation::Delete, ..) => return Err(Problem::Rows("delete")),
            (Operation::Read, ..) => return Err(Problem::Rows("read")),
        }
        let columns = |names: &[Cow<'_, str>]| -> Result<Vec<usize>, Problem> {
            names.iter().map(|name| column(&relation, name)).collect()
        };
        let (changed, same) = (columns(&rows.changed)?, columns(&rows.same)?);
        let old = rows.old.map(|old| building.row(&relation, old)).transpose()?;
        let new = rows.new.map(|new| building.row(&relation, new)).transpose()?;
        let fields = &mut building.batch.fields;
        if let Some(new) = &new {
            for column in same {
                fields[new.start + column] = Field::UNCHANGED;
            }
        }
        // Any two that differ.
        if let (Some(old), Some(new), false) = (&old, &new, changed.is_empty()) {
            for (row, fingerprint) in [(old, 0), (new, 1)] {
                let start = building.bytes.len();
                building.bytes.extend_from_slice(&[fingerprint; Field::FINGERPRINT]);
                let omitted = Field::omitted(start).unwrap_or(Field::UNKNOWN);
                for column in &changed {
                    let field = &mut fields[row.start + column];
                    if *field == Field::UNKNOWN {
                        *field = omitted;
                    }
                }
            }
        }
        building.batch.change(&relation, operation, transaction, old, new);
        Ok(())
    }
}

impl Building {
    fn is_full(&self) -> bool {
        self.bytes.len() >= Recording::BATCH_BYTES
            || self.batch.fields.len() >= Recording::BATCH_FIELDS
            || self.lines >= Recording::BATCH_LINES
    }

    fn row(
        &mut self,
        relation: &Relation,
        Columns(columns): Columns<'_>,
    ) -> Result<Range<usize>, Problem> {
        let start = self.batch.fields.len();
        let end = start + relation.columns.len();
        self.batch.fields.resize(end, Field::UNKNOWN);
        for (name, text) in columns {
            let field = match text {
                Text::Null => Field::NULL,
                Text::Value(text) => {
                    let start = self.bytes.len();
                    self.bytes.extend_from_slice(&text);
                    Field::text(start..self.bytes.len()).unwrap_or(Field::UNKNOWN)
                }
            };
            self.batch.fields[start + column(relation, &name)?] = field;
        }
        Ok(start..end)
    }

    fn finish(self) -> Batch {
        self.batch.finish(self.bytes.into())
    }
}

fn column(relation: &Relation, name: &str) -> Result<usize, Problem> {
    relation.column(name).ok_or_else(|| Problem::UnknownColumn {
        table: relation.table.clone(),
        column: name.to_owned(),
    })
}
