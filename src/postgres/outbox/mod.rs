//! What capture by triggers has in the database, as it is now: the objects of
//! schema `rowcast`, and the triggers on the tables of the rules.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

pub mod capture;
pub mod goal;
mod plan;
mod room;
pub mod settings;

pub use plan::{Installation, install, remove, remove_schema};
pub use room::Room;

/// What `sql/outbox.sql` makes, in schema `rowcast`.
pub const SEQUENCES: [&str; 4] = ["outbox_id", "gate", "failures", "refusals"];
pub const TABLES: [&str; 3] = ["outbox", "shapes", "reader"];

/// The advisory lock of whoever drains the outbox of a database.
pub const LOCK: i64 = 0x0072_6f77_6361_7374;

/// What was found. There is none where nothing of it is there at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Those of [`SEQUENCES`] and [`TABLES`] that are there.
    pub objects: Vec<Object>,
    /// By id. Empty where the session may not read them.
    pub shapes: Vec<Shape>,
    /// Whether `rowcast.reader` has its row. False where the session may not
    /// read it.
    pub has_reader: bool,
    /// Whether triggers were ever told how much they may write.
    pub is_gate_set: bool,
    /// Of every table of the database, by table and name.
    pub triggers: Vec<Trigger>,
    /// Those of schema `rowcast` that triggers call, and what these call.
    pub functions: Vec<Function>,
    /// Who drains it now.
    pub drained_by: Option<Backend>,
}

/// A sequence or table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub name: Box<str>,
    pub oid: u32,
    pub owner: Box<str>,
    /// Whether the session's role may SELECT from it.
    pub readable: bool,
}

/// What the outbox's rows of one kind consist of: a row of `rowcast.shapes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub id: i32,
    /// OID of the table, of a partition the root's.
    pub relation: u32,
    /// In the order of the outbox's arrays.
    pub columns: Vec<Box<str>>,
}

/// A trigger whose function is one of schema `rowcast`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub oid: u32,
    /// The transaction that last wrote its catalog row: another one once it was
    /// disabled for a while.
    pub xmin: Box<str>,
    /// OID of the table.
    pub relation: u32,
    /// `"schema"."table"`, quoted.
    pub table: Box<str>,
    pub name: Box<str>,
    pub fires: Fires,
    /// Name of its function.
    pub function: Box<str>,
    /// `tgtype`: the bits of its events, and of how it fires.
    pub events: i16,
    /// What its function calls the changed rows.
    pub old_rows: Option<Box<str>>,
    pub new_rows: Option<Box<str>>,
    /// It has no WHEN, and no list of columns.
    pub is_unconditional: bool,
}

/// When a trigger fires, by `session_replication_role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fires {
    Always,
    /// Not where the application, or a restore, sets it to `replica`.
    Origin,
    /// Only there.
    Replica,
    Never,
}

/// A function that writes to the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub oid: u32,
    pub name: Box<str>,
    /// Its name with its arguments' types, quoted.
    pub signature: Box<str>,
    pub owner: Box<str>,
    /// What stands between the quotes.
    pub body: Box<str>,
    pub security_definer: bool,
    /// `name=value`, in the order in which they were set.
    pub settings: Vec<Box<str>>,
    /// Whether PUBLIC may EXECUTE it.
    pub is_for_all: bool,
    /// Roles that may, by grants of their own.
    pub granted: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    pub application: Option<Box<str>>,
}

impl Outbox {
    pub fn object(&self, name: &str) -> Option<&Object> {
        self.objects.iter().find(|object| *object.name == *name)
    }

    /// The one that triggers write for a table now.
    pub fn shape_of(&self, relation: u32) -> Option<&Shape> {
        self.shapes.iter().rfind(|shape| shape.relation == relation)
    }

    /// Objects that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        SEQUENCES.into_iter().chain(TABLES).filter(|name| self.object(name).is_none())
    }

    /// Whether nothing of `sql/outbox.sql` is missing.
    pub fn is_complete(&self) -> bool {
        self.missing().next().is_none() && self.has_reader && self.has_guard()
    }

    pub fn has_guard(&self) -> bool {
        self.guard().is_some()
    }

    /// The trigger that tells when the outbox itself is truncated.
    fn guard(&self) -> Option<&Trigger> {
        let outbox = self.object("outbox")?.oid;
        let mut firing = self.triggers.iter().filter(|trigger| trigger.fires == Fires::Always);
        firing.find(|trigger| trigger.relation == outbox)
    }

    /// Triggers that write what changed, of whichever table.
    pub fn captures(&self) -> impl Iterator<Item = &Trigger> {
        self.triggers.iter().filter(|trigger| is_capture(&trigger.function))
    }

    /// Names of the outbox and of the triggers of each table that has all four,
    /// firing always: what was dropped and made again, or disabled for a while,
    /// has another name.
    pub fn parts(&self) -> BTreeSet<Box<str>> {
        let outbox = self.object("outbox").zip(self.guard());
        let outbox =
            outbox.map(|(outbox, guard)| format!("outbox {} {}", outbox.oid, guard.version()));
        let mut tables: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for trigger in self.captures().filter(|trigger| trigger.fires == Fires::Always) {
            tables.entry(trigger.relation).or_default().push(trigger.version());
        }
        let complete = tables.into_iter().filter(|(_, triggers)| triggers.len() == 4);
        let tables =
            complete.map(|(table, triggers)| format!("table {table} {}", triggers.join(" ")));
        outbox.into_iter().chain(tables).map(String::into_boxed_str).collect()
    }
}

impl Trigger {
    fn version(&self) -> String {
        format!("{}.{}", self.oid, self.xmin)
    }
}

/// Whether a trigger function of schema `rowcast` is one that writes what
/// changed in a table.
fn is_capture(function: &str) -> bool {
    function.starts_with("capture_")
}

/// What is there; `None` if that is nothing.
pub async fn read(client: &Client) -> Result<Option<Outbox>, Error> {
    let names = [&SEQUENCES[..], &TABLES[..]].concat();
    let named: [(&(dyn ToSql + Sync), Type); 1] = [(&names, Type::TEXT_ARRAY)];
    let (objects, triggers, functions, drained_by) = tokio::try_join!(
        client.query_typed(READ_OBJECTS, &named),
        client.query_typed(READ_TRIGGERS, &[]),
        client.query_typed(READ_FUNCTIONS, &[]),
        drained_by(client),
    )?;
    let mut outbox = Outbox {
        objects: objects.iter().map(object).collect::<Result<_, Error>>()?,
        triggers: triggers.iter().map(trigger).collect::<Result<_, Error>>()?,
        functions: functions.iter().map(function).collect::<Result<_, Error>>()?,
        drained_by,
        ..Outbox::default()
    };
    if outbox.objects.is_empty() && outbox.triggers.is_empty() && outbox.functions.is_empty() {
        return Ok(None);
    }
    let readable: Vec<Box<str>> =
        outbox.objects.iter().filter(|it| it.readable).map(|it| it.name.clone()).collect();
    let is_readable = |name: &str| readable.iter().any(|readable| **readable == *name);
    if is_readable("shapes") {
        let shapes = client.query_typed(READ_SHAPES, &[]).await?;
        outbox.shapes = shapes.iter().map(shape).collect::<Result<_, Error>>()?;
    }
    if is_readable("reader") {
        let rows = client.query_typed("SELECT FROM rowcast.reader LIMIT 1", &[]).await?;
        outbox.has_reader = !rows.is_empty();
    }
    if is_readable("gate") {
        let rows = client.query_typed("SELECT is_called FROM rowcast.gate", &[]).await?;
        outbox.is_gate_set = rows.first().map_or(Ok(false), |row| row.try_get(0))?;
    }
    Ok(Some(outbox))
}

/// Who has the lock of whoever drains the outbox.
pub async fn drained_by(client: &Client) -> Result<Option<Backend>, Error> {
    let locked: [(&(dyn ToSql + Sync), Type); 1] = [(&LOCK, Type::INT8)];
    client.query_typed(READ_HOLDER, &locked).await?.first().map(backend).transpose()
}

/// Schema `rowcast`, which `rowcast.context` and `rowcast.broadcast` are in too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub owner: Box<str>,
    /// Whether the session's role may make objects there.
    pub may_create: bool,
    /// Whether everyone may name what is in it.
    pub is_for_all: bool,
    pub is_empty: bool,
}

impl Schema {
    pub async fn read(client: &Client) -> Result<Option<Schema>, Error> {
        let rows = client.query_typed(READ_SCHEMA, &[]).await?;
        let schema = |row: &Row| {
            Ok(Schema {
                owner: text(row, "owner")?,
                may_create: row.try_get("may_create")?,
                is_for_all: row.try_get("is_for_all")?,
                is_empty: row.try_get("is_empty")?,
            })
        };
        rows.first().map(schema).transpose()
    }
}

const READ_SCHEMA: &str = "
SELECT pg_catalog.pg_get_userbyid(nspowner)::text AS owner,
       pg_catalog.has_schema_privilege(oid, 'USAGE')
       AND pg_catalog.has_schema_privilege(oid, 'CREATE') AS may_create,
       pg_catalog.has_schema_privilege('public', oid, 'USAGE') AS is_for_all,
       NOT EXISTS (
           SELECT FROM pg_catalog.pg_depend d
           WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
             AND d.refobjid = n.oid
       ) AS is_empty
FROM pg_catalog.pg_namespace n WHERE nspname = 'rowcast'";

const READ_OBJECTS: &str = "
SELECT c.relname::text AS name, c.oid, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')
       AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'rowcast' AND c.relkind IN ('r', 'S') AND c.relname::text = ANY ($1)
ORDER BY 1";

const READ_TRIGGERS: &str = "
SELECT t.oid, t.xmin::text AS xmin, t.tgrelid AS relation, t.tgname::text AS name,
       pg_catalog.format('%I.%I', tn.nspname, c.relname) AS table,
       t.tgenabled AS enabled, p.proname::text AS function, t.tgtype AS events,
       t.tgoldtable::text AS old_rows, t.tgnewtable::text AS new_rows,
       t.tgqual IS NULL AND pg_catalog.cardinality(t.tgattr) = 0 AS is_unconditional
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = c.relnamespace
WHERE n.nspname = 'rowcast' AND NOT t.tgisinternal
ORDER BY t.tgrelid, t.tgname";

const READ_FUNCTIONS: &str = "
SELECT p.oid, p.proname::text AS name, pg_catalog.pg_get_userbyid(p.proowner)::text AS owner,
       pg_catalog.format('rowcast.%I(%s)', p.proname,
                         pg_catalog.pg_get_function_identity_arguments(p.oid)) AS signature,
       p.prosrc AS body, p.prosecdef AS security_definer,
       coalesce(p.proconfig, '{}') AS settings,
       pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE') AS is_for_all,
       ARRAY(
           SELECT pg_catalog.pg_get_userbyid(a.grantee)::text
           FROM pg_catalog.aclexplode(p.proacl) a
           WHERE a.privilege_type = 'EXECUTE' AND a.grantee NOT IN (0, p.proowner)
       ) AS granted
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'rowcast'
  AND (pg_catalog.starts_with(p.proname::text, 'capture_')
       OR pg_catalog.starts_with(p.proname::text, 'outbox_'))
ORDER BY p.proname";

/// A lock by one 64-bit key has it in two halves, and 1 for which form it is.
const READ_HOLDER: &str = "
SELECT l.pid, a.application_name AS application
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_catalog.pg_database
                    WHERE datname = pg_catalog.current_database())
  AND l.classid::bigint = ($1::bigint >> 32) AND l.objid::bigint = ($1::bigint & 4294967295)
LIMIT 1";

const READ_SHAPES: &str = "SELECT id, relation, columns FROM rowcast.shapes ORDER BY id";

fn object(row: &Row) -> Result<Object, Error> {
    Ok(Object {
        name: text(row, "name")?,
        oid: row.try_get("oid")?,
        owner: text(row, "owner")?,
        readable: row.try_get("readable")?,
    })
}

fn shape(row: &Row) -> Result<Shape, Error> {
    Ok(Shape {
        id: row.try_get("id")?,
        relation: row.try_get("relation")?,
        columns: texts(row, "columns")?,
    })
}

fn trigger(row: &Row) -> Result<Trigger, Error> {
    Ok(Trigger {
        oid: row.try_get("oid")?,
        xmin: text(row, "xmin")?,
        relation: row.try_get("relation")?,
        table: text(row, "table")?,
        name: text(row, "name")?,
        fires: match row.try_get::<_, i8>("enabled")? as u8 {
            b'A' => Fires::Always,
            b'O' => Fires::Origin,
            b'R' => Fires::Replica,
            _ => Fires::Never,
        },
        function: text(row, "function")?,
        events: row.try_get("events")?,
        old_rows: row.try_get::<_, Option<String>>("old_rows")?.map(Box::from),
        new_rows: row.try_get::<_, Option<String>>("new_rows")?.map(Box::from),
        is_unconditional: row.try_get("is_unconditional")?,
    })
}

fn function(row: &Row) -> Result<Function, Error> {
    Ok(Function {
        oid: row.try_get("oid")?,
        name: text(row, "name")?,
        signature: text(row, "signature")?,
        owner: text(row, "owner")?,
        body: text(row, "body")?,
        security_definer: row.try_get("security_definer")?,
        settings: texts(row, "settings")?,
        is_for_all: row.try_get("is_for_all")?,
        granted: texts(row, "granted")?,
    })
}

fn backend(row: &Row) -> Result<Backend, Error> {
    let application: Option<String> = row.try_get("application")?;
    let application = application.filter(|name| !name.is_empty()).map(Box::from);
    Ok(Backend { pid: row.try_get("pid")?, application })
}

fn text(row: &Row, column: &str) -> Result<Box<str>, Error> {
    Ok(row.try_get::<_, String>(column)?.into())
}

fn texts(row: &Row, column: &str) -> Result<Vec<Box<str>>, Error> {
    Ok(row.try_get::<_, Vec<String>>(column)?.into_iter().map(Box::from).collect())
}
