//! What the publication should be, and the way there.

use crate::change::{ReplicaIdentity, TableName};

use super::catalog::{Table, quote_table};
use super::need::{Wanted, holders};
use super::publication::Publication;
use super::server::Server;
use super::statement::Statement;
use super::{PublicationName, quote_identifier};

/// What the publication should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// By schema and name; at least one.
    pub tables: Vec<TargetTable>,
    /// `publish_generated_columns = stored`, which Postgres 18 wants of a table
    /// that has such columns and `REPLICA IDENTITY FULL`.
    pub generated_columns: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTable {
    pub table: TableName,
    /// A column list; `None` for whole rows.
    pub columns: Option<Vec<Box<str>>>,
}

/// What cannot be published.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    #[error("no rule takes a table of this database")]
    NoTables,
    #[error(
        "publish_columns = \"named\" needs Postgres 15, and this is {}: leave it at \"all\"",
        version_num / 10_000
    )]
    ColumnsBefore15 { version_num: u32 },
    #[error(
        "publish_columns = \"named\" and REPLICA IDENTITY FULL exclude each other on {table}: \
         Postgres would refuse every UPDATE and DELETE there; leave it at \"all\""
    )]
    ColumnsWithFull { table: TableName },
    #[error(
        "{table} is UNLOGGED, so its changes cannot be published: ALTER TABLE {} SET LOGGED",
        quote_table(table)
    )]
    Unlogged { table: TableName },
    #[error(
        "{table} has virtual generated columns and would need REPLICA IDENTITY FULL: Postgres 18 \
         then refuses every UPDATE and DELETE there"
    )]
    VirtualColumns { table: TableName },
    #[error(
        "publication {publication} is FOR ALL TABLES and cannot be narrowed down to those of the \
         rules: DROP PUBLICATION {}, or choose another name under [database] publication",
        quote_identifier(publication.as_str())
    )]
    AllTables { publication: PublicationName },
}

impl Target {
    /// `is_full` tells whether a table's identity is FULL or will be.
    ///
    /// # Errors
    /// Whatever would make the application's own writes fail later.
    pub fn new(
        server: &Server,
        tables: &[Table],
        wanted: &[Wanted<'_>],
        named_columns: bool,
        is_full: impl Fn(&Table) -> bool,
    ) -> Result<Target, PublishError> {
        if named_columns && server.version_num < Server::PG15 {
            return Err(PublishError::ColumnsBefore15 { version_num: server.version_num });
        }
        let mut target = Target { tables: Vec::new(), generated_columns: false };
        for one in wanted {
            let table = one.table;
            let name = || table.relation.table.clone();
            let full = is_full(table) || holders(tables, table).into_iter().any(&is_full);
            if !table.logged {
                return Err(PublishError::Unlogged { table: name() });
            }
            if full && server.version_num >= Server::PG18 {
                if table.generated.r#virtual {
                    return Err(PublishError::VirtualColumns { table: name() });
                }
                target.generated_columns |= table.generated.stored;
            }
            if named_columns && full {
                return Err(PublishError::ColumnsWithFull { table: name() });
            }
            let columns = named_columns.then(|| column_list(tables, *one));
            target.tables.push(TargetTable { table: name(), columns });
        }
        if target.tables.is_empty() {
            return Err(PublishError::NoTables);
        }
        target.tables.sort_by(|one, other| one.table.cmp(&other.table));
        Ok(target)
    }

    /// The statements that lead from the publication as it is to this.
    pub fn statements(
        &self,
        server: &Server,
        name: &PublicationName,
        current: Option<&Publication>,
    ) -> Result<Vec<Statement>, PublishError> {
        let quoted = quote_identifier(name.as_str());
        let Some(current) = current else {
            return Ok(vec![Statement::new(
                format!("publication {name}: the tables whose changes rowcast gets"),
                format!(
                    "CREATE PUBLICATION {quoted} FOR TABLE {} WITH ({})",
                    self.table_list(),
                    self.options(server)
                ),
            )]);
        };
        if current.all_tables {
            return Err(PublishError::AllTables { publication: name.clone() });
        }
        let mut statements = Vec::new();
        if !self.has_options(server, current) {
            statements.push(Statement::new(
                format!("publication {name}: which operations, and under which table's name"),
                format!("ALTER PUBLICATION {quoted} SET ({})", self.options(server)),
            ));
        }
        if !self.has_tables(current) {
            statements.push(Statement::new(
                self.difference(name, current),
                format!("ALTER PUBLICATION {quoted} SET TABLE {}", self.table_list()),
            ));
        }
        Ok(statements)
    }

    fn has_options(&self, server: &Server, current: &Publication) -> bool {
        let generated = server.version_num < Server::PG18
            || current.generated_columns
            || !self.generated_columns;
        let Publication { insert, update, delete, truncate, via_root, .. } = *current;
        insert && update && delete && truncate && via_root && generated
    }

    fn has_tables(&self, current: &Publication) -> bool {
        let listed = current.tables.iter().filter(|table| table.listed);
        current.schemas.is_empty()
            && listed.clone().count() == self.tables.len()
            && listed.zip(&self.tables).all(|(is, should)| {
                is.table == should.table && is.row_filter.is_none() && is.columns == should.columns
            })
    }

    fn options(&self, server: &Server) -> String {
        let mut options =
            "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
                .to_owned();
        if self.generated_columns && server.version_num >= Server::PG18 {
            options.push_str(", publish_generated_columns = stored");
        }
        options
    }

    /// `ONLY`: the children of a table that others inherit from are tables of
    /// their own to a rule.
    fn table_list(&self) -> String {
        let tables: Vec<String> = self
            .tables
            .iter()
            .map(|target| {
                let columns = target.columns.as_ref().map_or(String::new(), |columns| {
                    let quoted: Vec<String> =
                        columns.iter().map(|column| quote_identifier(column)).collect();
                    format!(" ({})", quoted.join(", "))
                });
                format!("ONLY {}{columns}", quote_table(&target.table))
            })
            .collect();
        tables.join(", ")
    }

    fn difference(&self, name: &PublicationName, current: &Publication) -> String {
        let is_listed = |table: &TableName| {
            current.tables.iter().any(|listed| listed.listed && listed.table == *table)
        };
        let is_wanted = |table: &TableName| self.tables.iter().any(|target| target.table == *table);
        let names = |names: Vec<String>| names.join(", ");
        let added = self.tables.iter().map(|target| &target.table).filter(|t| !is_listed(t));
        let added = names(added.map(TableName::to_string).collect());
        let dropped = current.tables.iter().filter(|table| table.listed).map(|table| &table.table);
        let dropped = names(dropped.filter(|t| !is_wanted(t)).map(TableName::to_string).collect());
        match (added.is_empty(), dropped.is_empty()) {
            (false, true) => format!("publication {name} gets {added}"),
            (true, false) => format!("publication {name} loses {dropped}, which no rule names"),
            (false, false) => {
                format!("publication {name} gets {added}, loses {dropped}, which no rule names")
            }
            (true, true) => format!("publication {name} gets other rows or columns"),
        }
    }
}

/// Named columns with those of the identity, of every partition, in the
/// table's own order.
fn column_list(tables: &[Table], wanted: Wanted<'_>) -> Vec<Box<str>> {
    let Wanted { table, need } = wanted;
    let relation = &table.relation;
    let holders = holders(tables, table);
    let in_identity = |name: &str| {
        holders.iter().any(|holder| {
            let column = holder.relation.column(name);
            column.is_some_and(|column| holder.relation.columns[column].in_identity)
        })
    };
    (0..relation.columns.len())
        .filter(|column| {
            need.columns.contains(column)
                || need.identity.iter().any(|need| need.column == *column)
                || relation.primary_key.contains(column)
                || in_identity(&relation.columns[*column].name)
        })
        .map(|column| relation.columns[column].name.clone())
        .collect()
}

/// Whether old rows of the table carry every column.
pub fn is_full(table: &Table) -> bool {
    table.relation.identity == ReplicaIdentity::Full
}
