//! The SQL of which capture by triggers consists: for a table that rules name,
//! four functions, and the triggers that call them. Pure.
//!
//! They run within the application's statements, so each of their own costs it
//! time: what is static is static here too, that Postgres plans it once in a
//! session.

use super::settings::Settings;
use crate::postgres::catalog::{Output, Table, quote_table};
use crate::postgres::need::Need;
use crate::postgres::quote_identifier;

/// What all functions do, around the rows.
const BODY: &str = include_str!("../../../sql/capture.sql");

/// How long a statement may wait for a lock of the outbox, at most.
const LOCK_TIMEOUT: &str = "100ms";

/// What a statement does to a table, as triggers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Operation {
    pub const ALL: [Operation; 4] =
        [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate];

    fn name(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
        }
    }

    /// The trigger's name.
    pub fn trigger(self) -> String {
        format!("rowcast_{}", self.name())
    }

    /// What the trigger's function reads the changed rows from.
    fn transition_tables(self) -> &'static str {
        match self {
            Operation::Insert => " REFERENCING NEW TABLE AS new_rows",
            Operation::Update => " REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
            Operation::Delete => " REFERENCING OLD TABLE AS old_rows",
            Operation::Truncate => "",
        }
    }

    /// Whether any row was changed, as SQL.
    fn changed(self) -> &'static str {
        match self {
            Operation::Insert => "EXISTS (SELECT FROM new_rows)",
            Operation::Update | Operation::Delete => "EXISTS (SELECT FROM old_rows)",
            Operation::Truncate => "true",
        }
    }
}

/// The columns that triggers write for a table: those that rules name, and the
/// primary key. As indexes into the relation's, which is their order.
pub fn columns(table: &Table, need: &Need) -> Vec<usize> {
    let identity = need.identity.iter().map(|need| need.column);
    let key = table.relation.primary_key.iter().copied();
    let mut columns: Vec<usize> = need.columns.iter().copied().chain(identity).chain(key).collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// What is written of one table, and of its partitions.
#[derive(Clone, Copy, Debug)]
pub struct Capture<'a> {
    /// The table that rules name.
    root: &'a Table,
    columns: &'a [usize],
    shape: i32,
}

/// A trigger function in schema `rowcast`, as `pg_proc` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// `prosrc`.
    pub body: String,
    /// `proconfig`.
    pub settings: Vec<String>,
}

impl<'a> Capture<'a> {
    /// `columns` as [`columns`] has them, `shape` the number under which
    /// `rowcast.shapes` has their names. The table has a primary key.
    pub fn of(root: &'a Table, columns: &'a [usize], shape: i32) -> Capture<'a> {
        Capture { root, columns, shape }
    }

    pub fn functions(&self) -> [Function; 4] {
        Operation::ALL.map(|operation| self.function(operation))
    }

    pub fn function_name(&self, operation: Operation) -> String {
        format!("capture_{}_{}", self.root.relation.oid, operation.name())
    }

    pub fn function(&self, operation: Operation) -> Function {
        let body = BODY
            .replace("{{changed}}", operation.changed())
            .replace("{{shape}}", &self.shape.to_string())
            .replace("{{rows}}", &self.rows(operation));
        Function { name: self.function_name(operation), body, settings: self.settings() }
    }

    /// Makes `table`'s triggers, or makes them as they are to be: the root's,
    /// a partition's at any level. Without the last semicolon; by the table's
    /// owner, who may EXECUTE the functions.
    pub fn triggers(&self, table: &Table) -> String {
        let table = quote_table(&table.relation.table);
        let make = |operation: Operation| {
            format!(
                "CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table}{transition_tables} \
                 FOR EACH STATEMENT EXECUTE FUNCTION rowcast.{function}();\n\
                 ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}",
                trigger = operation.trigger(),
                event = operation.name().to_ascii_uppercase(),
                transition_tables = operation.transition_tables(),
                function = self.function_name(operation),
            )
        };
        Operation::ALL.map(make).join(";\n")
    }

    /// What is selected: op, old and new, and from where.
    fn rows(&self, operation: Operation) -> String {
        match operation {
            Operation::Insert => {
                format!("'i'::\"char\", NULL::text[], {} FROM new_rows r", self.image())
            }
            Operation::Delete => {
                format!("'d'::\"char\", {}, NULL::text[] FROM old_rows r", self.image())
            }
            Operation::Truncate => "'t'::\"char\", NULL::text[], NULL::text[]".to_owned(),
            Operation::Update => self.pairs(),
        }
    }

    /// Old and new rows by the primary key. Not by their order, which shifts
    /// where a BEFORE trigger of a partition swallows a row that moves there.
    ///
    /// A FULL JOIN, which no nested loop can do: planned for the one row of a
    /// session's first statement, it must do for the millions of a later one.
    fn pairs(&self) -> String {
        let key = &self.root.relation.primary_key;
        let side = |rows: &str| {
            let keys: String = key
                .iter()
                .enumerate()
                .map(|(place, column)| format!("{} AS key_{place}, ", self.key(*column)))
                .collect();
            format!("(SELECT {keys}{} AS image FROM {rows} r)", self.image())
        };
        let same: Vec<String> =
            (0..key.len()).map(|place| format!("n.key_{place} = o.key_{place}")).collect();
        format!(
            "CASE WHEN o.image IS NULL THEN 'i' WHEN n.image IS NULL THEN 'd' ELSE 'u' \
             END::\"char\",\n            o.image, n.image\n        FROM {old} o\n        \
             FULL JOIN {new} n ON {same}",
            old = side("old_rows"),
            new = side("new_rows"),
            same = same.join(" AND "),
        )
    }

    /// The columns of row `r`, as an array of what pgoutput prints.
    fn image(&self) -> String {
        let texts: Vec<String> = self.columns.iter().map(|column| self.text(*column)).collect();
        format!("ARRAY[{}]", texts.join(", "))
    }

    fn column(&self, column: usize) -> (String, &Output) {
        let name = quote_identifier(&self.root.relation.columns[column].name);
        (format!("r.{name}"), &self.root.outputs[column])
    }

    fn text(&self, column: usize) -> String {
        let (value, output) = self.column(column);
        match output.is_cast {
            true => format!("{value}::text"),
            // It calls the type's output function, wherever that is. IS NOT NULL
            // would be false of a composite one with a NULL in it.
            false => format!("CASE WHEN {value} IS DISTINCT FROM NULL THEN concat({value}) END"),
        }
    }

    /// What rows are paired by. Of a type whose operators are not in pg_catalog,
    /// its text: they could not be named without a right to their schema.
    fn key(&self, column: usize) -> String {
        let (value, output) = self.column(column);
        match output.is_comparable {
            true => value,
            false => format!("({}) COLLATE \"C\"", self.text(column)),
        }
    }

    fn settings(&self) -> Vec<String> {
        let of_columns = self.columns.iter().map(|column| self.root.outputs[*column].settings);
        let of_values = of_columns.fold(Settings::NONE, Settings::and);
        let always = [("search_path", "pg_catalog, pg_temp"), ("lock_timeout", LOCK_TIMEOUT)];
        let all = always.into_iter().chain(of_values.iter());
        all.map(|(name, value)| format!("{name}={value}")).collect()
    }
}

impl Function {
    /// Makes it, or makes it as it is to be. Without the last semicolon; by the
    /// role that rowcast runs as.
    pub fn sql(&self) -> String {
        let Function { name, body, settings } = self;
        let set: String = settings
            .iter()
            .map(|setting| {
                let (name, value) = setting.split_once('=').expect("settings have values");
                // Of a list, each is quoted.
                format!("    SET {name} = '{}'\n", value.replace(", ", "', '"))
            })
            .collect();
        // A column may be called anything.
        let mut quote = "$rowcast$".to_owned();
        while body.contains(&quote) {
            quote.insert(1, '_');
        }
        format!(
            "CREATE OR REPLACE FUNCTION rowcast.{name}() RETURNS trigger\n    \
             LANGUAGE plpgsql VOLATILE SECURITY DEFINER\n{set}AS {quote}{body}{quote};\n\
             REVOKE ALL ON FUNCTION rowcast.{name}() FROM PUBLIC"
        )
    }

    /// Lets `owner` make triggers that call it.
    pub fn grant(&self, owner: &str) -> String {
        format!("GRANT EXECUTE ON FUNCTION rowcast.{}() TO {}", self.name, quote_identifier(owner))
    }
}
