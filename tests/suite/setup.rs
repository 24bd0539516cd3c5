//! What `setup` and `teardown` do to a database, and how what is wrong with one is told.

mod partitions;

use rowcast::{
    change::{Relation, ReplicaIdentity},
    postgres::{
        Capture, PublicationName, PublishColumns, SlotName,
        catalog::{self, Table},
        checks::{Expected, Finding, Kind, check},
        identity::{self, OwnIndex},
        need::{IdentityNeed, Need},
        plan::{self, Identities, Removal, SetupError, SlotChange},
        snapshot::Snapshot,
        statement::{Statement, StatementError},
    },
};
use tokio_postgres::Client;

use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
};

const ATTEMPTS: u32 = 10;

/// A database, and what rules need of it.
struct Site {
    database: Database,
    client: Client,
    slot: SlotName,
    publication: PublicationName,
    /// Tables and the columns that old rows must carry.
    wanted: Vec<(&'static str, &'static [&'static str])>,
}

impl Site {
    async fn new(version: Version, schema: &str) -> Self {
        Self::on(Database::on(version).await, schema).await
    }

    async fn on(database: Database, schema: &str) -> Self {
        database.psql(schema).await;
        Self {
            client: database.client().await,
            slot: database.slot().parse().expect("the harness names slots well"),
            publication: "rowcast".parse().expect("it is a name"),
            wanted: Vec::new(),
            database,
        }
    }

    async fn snapshot(&self) -> (Snapshot, Vec<OwnIndex>) {
        let snapshot = Snapshot::gather(&self.client, &self.slot, &self.publication).await;
        let indexes = identity::own_indexes(&self.client).await;
        (snapshot.expect("the catalog can be read"), indexes.expect("the catalog can be read"))
    }

    fn needs(&self, tables: &[Table]) -> Vec<Need> {
        let need = |(name, columns): &(&str, &[&str])| {
            let relation = &find(tables, name).relation;
            let column = |name: &str| relation.column(name).expect("the test's table has it");
            Need {
                oid: relation.oid,
                rules: vec!["posts".into()],
                columns: columns.iter().map(|name| column(name)).collect(),
                identity: columns
                    .iter()
                    .map(|name| IdentityNeed { column: column(name), rule: "posts".into() })
                    .collect(),
            }
        };
        self.wanted.iter().map(need).collect()
    }

    async fn plan(&self, identities: Identities) -> Result<plan::Setup, SetupError> {
        self.plan_with(PublishColumns::All, identities).await
    }

    async fn plan_with(
        &self,
        columns: PublishColumns,
        identities: Identities,
    ) -> Result<plan::Setup, SetupError> {
        let (snapshot, indexes) = self.snapshot().await;
        let needs = self.needs(&snapshot.tables);
        plan::setup(&snapshot, &self.expected(&needs), &indexes, columns, identities)
    }

    fn expected<'a>(&'a self, needs: &'a [Need]) -> Expected<'a> {
        Expected {
            capture: Capture::Wal,
            slot: &self.slot,
            publication: &self.publication,
            needs,
            takeover: false,
            failover: false,
        }
    }

    fn removal(&self, identities: Identities) -> Removal<'_> {
        Removal {
            slot: &self.slot,
            publication: &self.publication,
            capture: Capture::Wal,
            only: None,
            role: "postgres",
            identities,
        }
    }

    /// As `rowcast setup --identity`. Returns the SQL it ran.
    async fn setup(&self) -> Vec<String> {
        let plan = self.plan(Identities::Change).await.unwrap_or_else(|error| panic!("{error}"));
        let slot = plan.slot.map(|change| plan::slot_change(change, &self.slot, false));
        let statements = [plan.statements, slot.into_iter().collect()].concat();
        self.run(&statements).await;
        statements.into_iter().map(|statement| statement.sql).collect()
    }

    async fn run(&self, statements: &[Statement]) {
        for statement in statements {
            let ran = statement.execute(&self.client, ATTEMPTS, |_| ()).await;
            ran.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        }
    }

    async fn findings(&self) -> Vec<Finding> {
        let (snapshot, _) = self.snapshot().await;
        let needs = self.needs(&snapshot.tables);
        check(&snapshot, &self.expected(&needs))
    }

    /// Kinds of what is wrong, without what every throwaway cluster has, and without the doubt about the publication's
    /// age, which slots of other tests may raise.
    async fn kinds(&self) -> Vec<Kind> {
        let mut kinds = self.all_kinds().await;
        kinds.retain(|kind| {
            !matches!(kind, Kind::UnlimitedRetention | Kind::PublicationPerhapsNewer)
        });
        kinds
    }

    async fn all_kinds(&self) -> Vec<Kind> {
        self.findings().await.into_iter().map(|finding| finding.kind).collect()
    }

    async fn published(&self) -> String {
        self.database
            .psql("select string_agg(tablename, ' ' order by tablename) from pg_publication_tables")
            .await
    }

    async fn relation(&self, name: &str) -> Relation {
        let tables = catalog::tables(&self.client).await.expect("the catalog can be read");
        find(&tables, name).relation.clone()
    }
}

fn find<'a>(tables: &'a [Table], name: &str) -> &'a Table {
    let found = tables.iter().find(|table| *table.relation.table.name == *name);
    found.unwrap_or_else(|| panic!("there is no table {name}"))
}

fn identity_columns(relation: &Relation) -> Vec<&str> {
    let columns = relation.columns.iter().filter(|column| column.in_identity);
    columns.map(|column| &*column.name).collect()
}

const BLOG: &str = "
create table posts (id bigint primary key, user_id int not null, slug text not null, team_id int);
create table comments (id bigint primary key, post_id bigint not null);
create table logs (line text);
";

async fn setup_makes_all_and_then_finds_nothing_to_do(version: Version) {
    let mut site = Site::new(version, BLOG).await;
    site.wanted = vec![("posts", &["id", "user_id"]), ("comments", &[])];
    assert!(site.kinds().await.contains(&Kind::PublicationMissing));
    assert_eq!(site.setup().await.len(), 4, "index, identity, publication, slot");
    assert_eq!(site.published().await, "comments posts");
    assert_eq!(identity_columns(&site.relation("posts").await), ["id", "user_id"]);
    assert_eq!(site.kinds().await, []);
    assert_eq!(site.setup().await, [""; 0]);
    let again = site.plan(Identities::Keep).await.expect("all is there");
    assert_eq!(again.found.len(), 4, "{:?}", again.found);
}

#[tokio::test]
async fn setup_is_idempotent_on_14() {
    setup_makes_all_and_then_finds_nothing_to_do(Version::V14).await;
}

#[tokio::test]
async fn setup_is_idempotent_on_15() {
    setup_makes_all_and_then_finds_nothing_to_do(Version::V15).await;
}

#[tokio::test]
async fn setup_is_idempotent_on_18() {
    setup_makes_all_and_then_finds_nothing_to_do(Version::V18).await;
}

#[tokio::test]
async fn changed_rules_change_the_publication() {
    let mut site = Site::new(Version::DEFAULT, BLOG).await;
    site.wanted = vec![("posts", &[])];
    site.setup().await;
    site.wanted = vec![("comments", &[])];
    assert_eq!(site.kinds().await, [Kind::TableNotPublished, Kind::TableNotWanted]);
    let sql = site.setup().await;
    assert_eq!(sql, [r#"ALTER PUBLICATION "rowcast" SET TABLE ONLY "public"."comments""#]);
    assert_eq!(site.published().await, "comments");
    assert_eq!(site.kinds().await, []);
}

#[tokio::test]
async fn a_narrowed_publication_is_found_and_mended() {
    let mut site = Site::new(
        Version::DEFAULT,
        &format!(
            "{BLOG} create publication rowcast for table posts (id, team_id) where (id > 7)
             with (publish = 'insert, update')"
        ),
    )
    .await;
    site.wanted = vec![("posts", &["id", "user_id"])];
    let kinds = site.kinds().await;
    for kind in [Kind::PublicationOperations, Kind::RowFilter, Kind::ColumnList, Kind::SlotMissing]
    {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
    site.setup().await;
    assert_eq!(site.kinds().await, []);
}

#[tokio::test]
async fn an_identity_is_refused_with_the_sql_then_changed_on_request() {
    let mut site = Site::new(Version::DEFAULT, BLOG).await;
    site.wanted = vec![("posts", &["id", "user_id"]), ("logs", &[])];
    let refusal = site.plan(Identities::Keep).await.expect_err("identities lack columns");
    let text = refusal.to_string();
    for expected in [
        r#"CREATE UNIQUE INDEX CONCURRENTLY "rowcast_identity_posts" ON "public"."posts" ("id", "user_id");"#,
        r#"ALTER TABLE "public"."posts" REPLICA IDENTITY USING INDEX "rowcast_identity_posts";"#,
        r#"ALTER TABLE "public"."logs" REPLICA IDENTITY FULL;"#,
        "public.logs has no usable replica identity (no primary key)",
        "do not carry user_id (rule \"posts\")",
    ] {
        assert!(text.contains(expected), "{expected} in:\n{text}");
    }
    assert_eq!(site.published().await, "");
    site.setup().await;
    assert_eq!(site.relation("logs").await.identity, ReplicaIdentity::Full);
    assert_eq!(site.relation("posts").await.identity, ReplicaIdentity::Index);
}

#[tokio::test]
async fn a_nullable_or_unbounded_column_takes_full() {
    for column in ["team_id", "slug"] {
        let mut site = Site::new(Version::DEFAULT, BLOG).await;
        site.wanted = vec![("posts", if column == "slug" { &["slug"] } else { &["team_id"] })];
        site.setup().await;
        assert_eq!(site.relation("posts").await.identity, ReplicaIdentity::Full, "{column}");
    }
}

#[tokio::test]
async fn a_rule_that_needs_more_gets_another_index_and_the_old_one_goes() {
    let mut site = Site::new(
        Version::DEFAULT,
        "create table posts (id int primary key, a int not null, b uuid not null)",
    )
    .await;
    site.wanted = vec![("posts", &["a"])];
    site.setup().await;
    site.wanted = vec![("posts", &["a", "b"])];
    site.setup().await;
    let relation = site.relation("posts").await;
    assert_eq!(identity_columns(&relation), ["id", "a", "b"]);
    let indexes = identity::own_indexes(&site.client).await.expect("the catalog can be read");
    let names: Vec<&str> = indexes.iter().map(|index| &*index.name).collect();
    assert_eq!(names, ["rowcast_identity_posts_2"]);
    assert_eq!(site.setup().await, [""; 0]);
}

#[tokio::test]
async fn the_printed_script_runs_in_psql_to_the_same_end() {
    let mut site = Site::new(Version::DEFAULT, &format!("{BLOG}{}", partitions::PARTITIONED)).await;
    site.wanted = vec![("posts", &["user_id"]), ("logs", &[]), ("events", &["user_id"])];
    let plan = site.plan(Identities::Change).await.expect("nothing is in the way");
    let mut script = Statement::script_head();
    for statement in
        plan.statements.iter().chain([&plan::slot_change(SlotChange::Make, &site.slot, false)])
    {
        script.push_str(&statement.script());
    }
    site.database.psql(&script).await;
    assert_eq!(site.kinds().await, []);
    assert_eq!(site.setup().await, [""; 0]);
}

#[tokio::test]
async fn named_columns_are_published_with_those_of_the_identity() {
    let mut site = Site::new(Version::DEFAULT, BLOG).await;
    site.wanted = vec![("posts", &["user_id"])];
    let plan = site.plan_with(PublishColumns::Named, Identities::Change).await;
    let plan = plan.expect("nothing is in the way");
    site.run(&plan.statements).await;
    let columns = "select attnames from pg_publication_tables";
    assert_eq!(site.database.psql(columns).await, "{id,user_id}");
    let again = site.plan_with(PublishColumns::Named, Identities::Keep).await;
    assert_eq!(again.expect("it is set up").statements, []);

    site.wanted = vec![("posts", &["team_id"])];
    let refusal = site.plan_with(PublishColumns::Named, Identities::Change).await;
    let refusal = refusal.expect_err("FULL and column lists exclude each other");
    assert!(refusal.to_string().contains("FULL exclude each other"), "{refusal}");

    let mut site = Site::new(Version::V14, BLOG).await;
    site.wanted = vec![("posts", &[])];
    let refusal = site.plan_with(PublishColumns::Named, Identities::Change).await;
    assert!(refusal.expect_err("14 has no column lists").to_string().contains("needs Postgres 15"));
}

#[tokio::test]
async fn full_publishes_generated_columns_on_18() {
    let schema = "
        create table posts (id int primary key, a int, b int generated always as (id + 1) stored);
        insert into posts values (1, 1);
    ";
    let mut site = Site::new(Version::V18, schema).await;
    site.wanted = vec![("posts", &["a"])];
    site.setup().await;
    site.database.psql("update posts set a = 2").await;
    assert_eq!(site.kinds().await, []);
    site.database.psql("alter publication rowcast set (publish_generated_columns = none)").await;
    assert_eq!(site.kinds().await, [Kind::GeneratedColumns]);

    let virtual_column =
        "create table posts (id int primary key, a int, b int generated always as (id + 1))";
    let mut site = Site::new(Version::V18, virtual_column).await;
    site.wanted = vec![("posts", &["a"])];
    let refusal = site.plan(Identities::Change).await.expect_err("UPDATE would fail");
    assert!(refusal.to_string().contains("virtual generated columns"), "{refusal}");
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_is_given_up_in_time_and_names_the_statement() {
    let mut site = Site::new(Version::DEFAULT, BLOG).await;
    site.wanted = vec![("logs", &[])];
    let holder = site.database.client().await;
    holder.batch_execute("begin; lock table logs in access share mode").await.expect("it is free");
    let plan = site.plan(Identities::Change).await.expect("nothing is in the way");

    let mut waits = 0;
    let statement = &plan.statements[0];
    let error = statement.execute(&site.client, 2, |_| waits += 1).await;
    let error = error.expect_err("the table is locked");
    assert!(matches!(error, StatementError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("REPLICA IDENTITY FULL"), "{error}");
    assert_eq!(waits, 1, "it let others pass in between");

    let mut release = Some(holder);
    statement
        .execute(&site.client, ATTEMPTS, |_| drop(release.take()))
        .await
        .expect("the lock is free after the first attempt");
}

#[tokio::test]
async fn a_publication_made_after_the_slot_is_told_and_one_made_before_is_not() {
    let cluster = std::sync::Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let mut site = Site::on(Database::fresh(&cluster).await, BLOG).await;
    site.wanted = vec![("comments", &[])];
    site.setup().await;
    assert_eq!(site.all_kinds().await, [Kind::UnlimitedRetention]);

    site.client.batch_execute("drop publication rowcast").await.expect("it is there");
    site.setup().await;
    let findings = site.findings().await;
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().any(|finding| finding.kind == Kind::PublicationPerhapsNewer));
    assert!(!findings.iter().any(Finding::is_error), "a doubt does not keep from streaming");
}

#[tokio::test]
async fn a_slot_that_is_not_ours_is_neither_used_nor_dropped() {
    let site = Site::new(Version::DEFAULT, BLOG).await;
    let make = format!("select pg_create_physical_replication_slot('{}')", site.slot);
    site.database.psql(&make).await;
    let blocked = site.plan(Identities::Keep).await.expect_err("the slot is another's");
    assert!(blocked.to_string().contains("is a physical one"), "{blocked}");
    let (snapshot, indexes) = site.snapshot().await;
    let kept = plan::teardown(&snapshot, &indexes, &site.removal(Identities::Keep));
    assert!(kept.expect_err("it is not ours").to_string().contains("is not rowcast's"));
    site.database.psql(&format!("select pg_drop_replication_slot('{}')", site.slot)).await;
}

#[tokio::test]
async fn a_slot_of_another_database_is_told() {
    let other = Database::on(Version::DEFAULT).await;
    let mut site = Site::new(Version::DEFAULT, BLOG).await;
    site.wanted = vec![("posts", &[])];
    let make = format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", site.slot);
    other.psql(&make).await;
    assert!(site.kinds().await.contains(&Kind::SlotDatabase));
}

#[tokio::test]
async fn teardown_takes_back_what_setup_made() {
    let mut site = Site::new(Version::DEFAULT, BLOG).await;
    site.wanted = vec![("posts", &["user_id"]), ("logs", &[])];
    site.setup().await;
    let (snapshot, indexes) = site.snapshot().await;
    let teardown = plan::teardown(&snapshot, &indexes, &site.removal(Identities::Change))
        .expect("the slot is idle and ours");
    assert_eq!(teardown.absent, [""; 0]);
    let staying: Vec<&str> = teardown.identities.iter().map(|one| &*one.sql).collect();
    assert_eq!(staying, [r#"ALTER TABLE "public"."logs" REPLICA IDENTITY DEFAULT"#]);
    site.run(&teardown.slot.into_iter().collect::<Vec<_>>()).await;
    site.run(&teardown.statements).await;

    let (snapshot, indexes) = site.snapshot().await;
    assert_eq!((snapshot.slot, snapshot.publication, indexes), (None, None, vec![]));
    assert_eq!(site.relation("posts").await.identity, ReplicaIdentity::Default);
    let (snapshot, indexes) = site.snapshot().await;
    let again = plan::teardown(&snapshot, &indexes, &site.removal(Identities::Change))
        .expect("nothing is there");
    assert_eq!((again.slot, again.statements, again.absent.len()), (None, vec![], 2));
}

#[tokio::test]
async fn wal_level_replica_names_the_setting_and_the_restart() {
    let cluster = Cluster::start(Version::DEFAULT, &[("wal_level", "replica")]).await;
    let database = Database::fresh(&std::sync::Arc::new(cluster)).await;
    let mut site = Site::on(database, BLOG).await;
    site.wanted = vec![("posts", &[])];
    let blocked = site.plan(Identities::Keep).await.expect_err("the log has no row changes");
    let text = blocked.to_string();
    assert!(text.contains("wal_level is replica") && text.contains("restart"), "{text}");
    assert!(text.contains("ALTER SYSTEM SET wal_level = 'logical'"), "{text}");
}

#[tokio::test]
async fn a_standby_list_with_us_in_it_is_an_error_and_no_limit_a_warning() {
    // Nothing may be written here: every commit would wait for a standby.
    let standbys = [("synchronous_standby_names", "ANY 1 (b, RowCast)")];
    let cluster = Cluster::start(Version::DEFAULT, &standbys).await;
    let client = cluster.client("postgres").await;
    let slot = "rowcast".parse().expect("it is a name");
    let publication = "rowcast".parse().expect("it is a name");
    let snapshot = Snapshot::gather(&client, &slot, &publication).await.expect("it only reads");
    let expected = Expected {
        capture: Capture::Wal,
        slot: &slot,
        publication: &publication,
        needs: &[],
        takeover: false,
        failover: false,
    };
    let findings = check(&snapshot, &expected);
    let standby = findings.iter().find(|finding| finding.kind == Kind::SynchronousStandby);
    assert!(standby.is_some_and(Finding::is_error), "{findings:?}");
    let limit = findings.iter().find(|finding| finding.kind == Kind::UnlimitedRetention);
    assert!(limit.is_some_and(|finding| !finding.is_error()), "{findings:?}");
}
