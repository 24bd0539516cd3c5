//! What triggers write to the outbox, and what they do to the statements that they are part of.

use rowcast::postgres::{
    catalog::{self, Table},
    need::Need,
    outbox::capture::{Capture, columns},
};
use tokio_postgres::Client;

use crate::harness::{
    cluster::{Version, on_every_version},
    database::Database,
};

mod faults;
mod rows;
mod said;
mod values;

const OUTBOX: &str = include_str!("../../sql/outbox.sql");
const FUNCTIONS: &str = include_str!("../../sql/outbox_functions.sql");

/// A database whose tables are captured, as `rowcast setup` makes it.
struct Captured {
    database: Database,
    /// What rowcast runs as.
    role: String,
    /// As a superuser.
    client: Client,
}

impl Captured {
    /// Every table that `schema` makes and that has a primary key, with the columns that are not called `other`.
    async fn on(version: Version, schema: &str) -> Captured {
        Captured::in_database(Database::on(version).await, schema).await
    }

    async fn in_database(database: Database, schema: &str) -> Captured {
        let role = format!("rowcast_{}", database.name);
        let client = database.client().await;
        let all = format!(
            "create role {role}; {schema}; create schema rowcast authorization {role};
             grant usage on schema rowcast to public; set role {role}; {OUTBOX};
             select setval('rowcast.gate', 2 * 1000000); reset role;
             {FUNCTIONS}"
        );
        client.batch_execute(&all).await.expect("the superuser may");
        let captured = Captured { database, role, client };
        captured.install().await;
        captured
    }

    async fn install(&self) {
        let tables = catalog::tables(&self.client).await.expect("the catalog is there");
        let roots = tables.iter().filter(|table| table.role.root().is_none());
        for root in roots.filter(|root| !root.relation.primary_key.is_empty()) {
            if &*root.relation.table.schema != "rowcast" {
                self.install_on(root, &tables).await;
            }
        }
    }

    async fn install_on(&self, root: &Table, tables: &[Table]) {
        let relation = &root.relation;
        let named =
            (0..relation.columns.len()).filter(|it| &*relation.columns[*it].name != "other");
        let need = Need {
            oid: relation.oid,
            rules: Vec::new(),
            columns: named.collect(),
            identity: Vec::new(),
        };
        let columns = columns(root, &need);
        let names: Vec<&str> = columns.iter().map(|it| &*relation.columns[*it].name).collect();
        let insert = "insert into rowcast.shapes (relation, columns) values ($1, $2) returning id";
        let shape = self.client.query_one(insert, &[&relation.oid, &names]).await;
        let capture = Capture::of(root, &columns, shape.expect("the table is there").get(0));
        let mut script = format!("set role {};", self.role);
        for function in capture.functions() {
            script.push_str(&format!("{};\n", function.sql()));
        }
        script.push_str("reset role;\n");
        let is_part = |table: &&Table| {
            table.relation.oid == relation.oid || table.role.root() == Some(relation.oid)
        };
        for table in tables.iter().filter(is_part) {
            script.push_str(&format!("{};\n", capture.triggers(table)));
        }
        self.client.batch_execute(&script).await.expect("the superuser may");
    }

    async fn run(&self, script: &str) {
        if let Err(error) = self.client.batch_execute(script).await {
            panic!("{error:?}\nin: {script}");
        }
    }

    /// What was written since the last call, a line each, in order: `table op old -> new`.
    async fn written(&self) -> Vec<String> {
        let sql = "with gone as (delete from rowcast.outbox returning *)
                   select s.relation::regclass || ' ', g.op::text, g.old::text,
                       case when g.shape is null then g.new[1] else g.new::text end
                   from gone g left join rowcast.shapes s on s.id = g.shape order by g.id";
        let rows = self.client.query(sql, &[]).await.expect("the outbox is there");
        let line = |row: &tokio_postgres::Row| {
            let text = |place| row.get::<_, Option<String>>(place);
            let mut line = text(0).unwrap_or_default();
            line.push_str(&text(1).unwrap_or_default());
            for part in [text(2), text(3).map(|new| format!("-> {new}"))].into_iter().flatten() {
                line.push_str(&format!(" {part}"));
            }
            line
        };
        rows.iter().map(line).collect()
    }

    /// The same where a statement writes its rows in any order.
    async fn written_sorted(&self) -> Vec<String> {
        let mut written = self.written().await;
        written.sort();
        written
    }

    /// Neither failed nor refused.
    async fn wrote_everything(&self) {
        assert_eq!((self.failures().await, self.refusals().await), (0, 0));
    }

    async fn last_value(&self, sequence: &str) -> i64 {
        let sql = format!("select last_value from rowcast.{sequence}");
        self.client.query_one(&sql, &[]).await.expect("the sequence is there").get(0)
    }

    async fn failures(&self) -> i64 {
        self.last_value("failures").await
    }

    async fn refusals(&self) -> i64 {
        self.last_value("refusals").await
    }
}
