use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::Wanted;
use super::VERSION;
use super::line::{Columns, Line, Rows, Text};
use crate::change::{Batch, Change, Context, Item, Operation, Relation, Row, Transaction, Value};

/// Writes changes to a file that only its owner may read: it holds values of rows.
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    wanted: Wanted,
    /// By OID, as described last, with the columns whose values are written.
    relations: HashMap<u32, (Arc<Relation>, Vec<bool>)>,
    /// What the lines before say of those to come.
    transaction: Option<Transaction>,
    context: Option<Arc<Context>>,
    changes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} is there already, and is not overwritten")]
    Exists(PathBuf),
    #[error("cannot write the recording {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl WriteError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            WriteError::Exists(_) => Some("give another name, or remove it".to_owned()),
            WriteError::Io { .. } => None,
        }
    }
}

impl Writer {
    /// Of one row's values, in bytes. What is beyond is left out, as if no rule
    /// needed it.
    const MAX_VALUES: usize = 16 << 20;

    /// Begins a new file, with the columns that are `wanted`.
    pub fn create(path: &Path, wanted: Wanted) -> Result<Writer, WriteError> {
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = created.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists(path.to_owned()),
            _ => WriteError::Io { path: path.to_owned(), source },
        })?;
        let mut writer = Writer {
            path: path.to_owned(),
            out: BufWriter::new(file),
            wanted,
            relations: HashMap::new(),
            transaction: None,
            context: None,
            changes: 0,
        };
        writer.all(|writer| {
            writer.line(&Line::Recording { version: VERSION })?;
            writer.out.flush()
        })?;
        Ok(writer)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows, and what else is told, were written.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Writes all that is in the batch, and leaves nothing in memory. Blocks for the
    /// disk.
    ///
    /// # Errors
    /// [`WriteError::Io`]. What was written until then can be read, but for its last
    /// line.
    pub fn write(&mut self, batch: &Batch) -> Result<(), WriteError> {
        self.all(|writer| {
            batch.items().try_for_each(|item| writer.item(&item))?;
            writer.out.flush()
        })
    }

    fn all(&mut self, write: impl FnOnce(&mut Writer) -> io::Result<()>) -> Result<(), WriteError> {
        write(self).map_err(|source| WriteError::Io { path: self.path.clone(), source })
    }

    fn item(&mut self, item: &Item<'_>) -> io::Result<()> {
        match item {
            Item::Change(change) => {
                self.begin(change.transaction)?;
                self.say(change.context)?;
                self.change(change)?;
            }
            Item::Truncate { relation, transaction } => {
                self.begin(*transaction)?;
                self.describe(relation)?;
                self.line(&Line::Truncate { relation: relation.oid })?;
            }
            Item::Broadcast { broadcast, transaction, context } => {
                self.begin(*transaction)?;
                self.say(*context)?;
                self.line(&Line::Broadcast {
                    channel: (&*broadcast.channel).into(),
                    event: (&*broadcast.event).into(),
                    data: (&*broadcast.data).into(),
                })?;
            }
            Item::Missed { relation, why, transaction } => {
                self.begin(*transaction)?;
                if let Some(relation) = relation {
                    self.describe(relation)?;
                }
                let relation = relation.map(|relation| relation.oid);
                self.line(&Line::Missed { relation, why: *why })?;
            }
            // Where nothing happened there is nothing to end.
            Item::Reached(position) => {
                if self.transaction.take().is_some() {
                    self.line(&Line::Reached(position.value()))?;
                }
                return Ok(());
            }
        }
        self.changes += 1;
        Ok(())
    }

    fn begin(&mut self, transaction: Transaction) -> io::Result<()> {
        if self.transaction == Some(transaction) {
            return Ok(());
        }
        self.transaction = Some(transaction);
        let Transaction { xid, at, position } = transaction;
        let at = at.to_string().into();
        self.line(&Line::Transaction { xid, at, position: position.value() })
    }

    fn say(&mut self, context: Option<&Arc<Context>>) -> io::Result<()> {
        let is_said = match (&self.context, context) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_said {
            return Ok(());
        }
        self.context = context.cloned();
        self.line(&Line::Context(context.map(|context| context.values().clone())))
    }

    fn describe(&mut self, relation: &Arc<Relation>) -> io::Result<()> {
        if self.relations.get(&relation.oid).is_some_and(|(known, _)| Arc::ptr_eq(known, relation))
        {
            return Ok(());
        }
        let wanted = (self.wanted)(relation);
        self.relations.insert(relation.oid, (relation.clone(), wanted));
        self.line(&Line::Relation(std::borrow::Cow::Borrowed(relation)))
    }

    fn change(&mut self, change: &Change<'_>) -> io::Result<()> {
        self.describe(change.relation)?;
        let (_, wanted) = &self.relations[&change.relation.oid];
        let rows = rows(change, wanted);
        self.line(&match change.operation {
            Operation::Insert => Line::Insert(rows),
            Operation::Update => Line::Update(rows),
            Operation::Delete => Line::Delete(rows),
            Operation::Read => Line::Read(rows),
        })
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// The change's rows without the values that are not wanted.
fn rows<'a>(change: &Change<'a>, wanted: &[bool]) -> Rows<'a> {
    let relation: &'a Relation = change.relation;
    let mut rows = Rows { relation: relation.oid, ..Rows::default() };
    let mut room = Writer::MAX_VALUES;
    let mut text = |row: Option<Row<'a>>, column: usize| match row?.value(column) {
        Value::Null => Some(Text::Null),
        Value::Text(bytes) => {
            room = room.checked_sub(bytes.len())?;
            Some(Text::of(bytes))
        }
        Value::Unchanged | Value::Unknown | Value::Omitted(_) => None,
    };
    rows.old = change.old_row().map(|_| Columns::default());
    rows.new = change.new_row().map(|_| Columns::default());
    for (column, described) in relation.columns.iter().enumerate() {
        let name = || &*described.name;
        let is_wanted = wanted.get(column).copied().unwrap_or(false);
        let old = text(change.old_row().filter(|_| is_wanted), column);
        let new = text(change.new_row().filter(|_| is_wanted), column);
        if change.operation == Operation::Update {
            match change.column_changed(column) {
                Some(true) if old.is_none() || new.is_none() => rows.changed.push(name().into()),
                Some(false) if new.is_none() => rows.same.push(name().into()),
                Some(_) | None => {}
            }
        }
        if let Some((old, rows)) = old.zip(rows.old.as_mut()) {
            rows.0.push((name().into(), old));
        }
        if let Some((new, rows)) = new.zip(rows.new.as_mut()) {
            rows.0.push((name().into(), new));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_recording_is_its_owners_and_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("changes.jsonl");
        let create = || Writer::create(&path, Box::new(|_| Vec::new()));
        drop(create().expect("a new file"));
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).expect("reads"), "{\"recording\":{\"version\":1}}\n");
        let Err(error) = create() else { panic!("it was overwritten") };
        assert!(error.to_string().contains("is there already"), "{error}");
    }
}
