//! What is wrong with a database for capture by triggers, and what is said of it.

use rowcast::postgres::{
    Capture,
    checks::{Expected, Finding, Kind, check},
    need::Need,
    snapshot::Snapshot,
};

use super::*;

impl Scene {
    /// Held against rules that name these columns of these tables, by rowcast's role.
    async fn findings(&self, wanted: &[(&str, &[&str])]) -> Vec<Finding> {
        let connection =
            rowcast::postgres::connect(&self.own.parse().expect("a URL"), "test").await;
        let client = connection.expect("it may log in");
        let slot = self.database.slot().parse().expect("the harness names slots well");
        let publication = "rowcast".parse().expect("it is a name");
        let snapshot =
            Snapshot::gather(&client.client, &slot, &publication).await.expect("readable");
        let need = |(name, columns): &(&str, &[&str])| {
            let mut tables = snapshot.tables.iter().map(|table| &table.relation);
            let relation = tables.find(|it| *it.table.name == **name).expect("the test made it");
            let columns = columns.iter().map(|name| relation.column(name).expect("it has it"));
            Need {
                oid: relation.oid,
                rules: vec![(*name).to_owned()],
                columns: columns.collect(),
                identity: Vec::new(),
            }
        };
        let needs: Vec<Need> = wanted.iter().map(need).collect();
        let expected = Expected {
            capture: Capture::Triggers,
            slot: &slot,
            publication: &publication,
            needs: &needs,
            takeover: false,
            failover: false,
        };
        check(&snapshot, &expected)
    }

    async fn finds(&self, wanted: &[(&str, &[&str])], kind: Kind, is_error: bool, says: &str) {
        let findings = self.findings(wanted).await;
        let kinds: Vec<Kind> = findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [kind], "{findings:?}");
        assert_eq!(findings[0].is_error(), is_error, "{findings:?}");
        assert!(findings[0].to_string().contains(says), "{says} in {}", findings[0]);
    }
}

#[tokio::test]
async fn each_thing_that_is_wrong_is_told_and_setup_mends_it() {
    let scene =
        Scene::new(Version::DEFAULT, &[POSTS, PARTITIONED].concat(), &[RULE, EVENTS_RULE].concat())
            .await;
    let wanted: &[(&str, &[&str])] = &[("posts", &["user_id"]), ("events", &[])];
    scene.finds(wanted, Kind::OutboxMissing, true, "rowcast.outbox does not exist").await;
    scene.passes(&["setup"]).await;
    assert_eq!(scene.findings(wanted).await, []);

    // Who breaks it, what is found, whether that is an error, and what is said.
    let broken = [
        (
            "alter table posts disable trigger rowcast_update",
            Kind::TriggersOff,
            true,
            "ENABLE ALWAYS TRIGGER rowcast_update",
        ),
        (
            "alter table posts enable trigger rowcast_delete",
            Kind::TriggersOff,
            true,
            "session_replication_role",
        ),
        (
            "drop trigger rowcast_insert on posts",
            Kind::TriggersMissing,
            true,
            "lacks triggers (rowcast_insert)",
        ),
        (
            "drop trigger rowcast_insert on events_b1",
            Kind::PartitionNotCaptured,
            false,
            "public.events_b1",
        ),
        (
            "set role shop; create table events_c partition of events for values from (50) to (60)",
            Kind::PartitionNotCaptured,
            false,
            "public.events_c",
        ),
        ("drop table rowcast.reader", Kind::OutboxMissing, true, "rowcast.reader does not exist"),
        ("delete from rowcast.reader", Kind::OutboxMissing, true, "the row of rowcast.reader"),
        ("drop trigger rowcast_truncate on rowcast.outbox", Kind::OutboxMissing, true, "TRUNCATE"),
        (
            "alter function rowcast.capture_posts_insert() set datestyle = 'SQL'",
            Kind::CaptureOutdated,
            false,
            "another form",
        ),
    ];
    for (breaks, kind, is_error, says) in broken {
        let oid = scene.database.psql("select 'posts'::regclass::oid").await;
        scene
            .database
            .psql(
                &breaks
                    .replace("capture_posts", &format!("capture_{oid}"))
                    .replace("role shop", &format!("role shop_{}", scene.database.name)),
            )
            .await;
        scene.finds(wanted, kind, is_error, says).await;
        scene.passes(&["setup"]).await;
        assert_eq!(scene.findings(wanted).await, [], "after {breaks}");
    }

    let more: &[(&str, &[&str])] = &[("posts", &["user_id", "title"]), ("events", &[])];
    scene
        .finds(more, Kind::CaptureOutdated, true, "do not write columns that rules name: title")
        .await;
    let fewer: &[(&str, &[&str])] = &[("posts", &[]), ("events", &[])];
    scene.finds(fewer, Kind::CaptureOutdated, false, "columns that no rule names").await;
    scene.finds(&[("events", &[])], Kind::TableNotWanted, false, "public.posts").await;
}

#[tokio::test]
async fn what_triggers_cannot_serve_is_refused_with_the_way_out() {
    let schema = [POSTS, PARTITIONED, "create table logs (line text);"].concat();
    let rules = "[[rule]]\ntable = 'logs'\nchannels = ['logs']\nid = '1'\n\
                 [[rule]]\ntable = 'events_a'\nchannels = ['a']\n";
    let scene = Scene::new(Version::DEFAULT, &schema, rules).await;
    let (code, said) = scene.run(&["setup"]).await;
    assert_eq!(code, 1, "{said}");
    for says in [
        "public.logs has no primary key",
        r#"ALTER TABLE "public"."logs" ADD PRIMARY KEY"#,
        "public.events_a is a partition of public.events, which no rule takes",
        r#"write table = "public.events""#,
    ] {
        assert!(said.contains(says), "{says} in {said}");
    }
    assert_eq!(
        scene.database.psql("select to_regnamespace('rowcast')").await,
        "",
        "nothing was made"
    );
}

#[tokio::test]
async fn an_outbox_of_another_role_is_refused() {
    let scene = Scene::new(Version::DEFAULT, POSTS, RULE).await;
    scene.passes(&["setup"]).await;
    scene.rowcast.configure(&config(&scene.owner, RULE));
    let (code, said) = scene.run(&["setup"]).await;
    assert_eq!(code, 1, "{said}");
    let own = format!("own_{}", scene.database.name);
    assert!(said.contains(&format!("belongs to role {own}")), "{said}");
}

#[tokio::test]
async fn who_may_not_make_triggers_is_told_who_may() {
    let scene = Scene::new(Version::DEFAULT, POSTS, RULE).await;
    scene
        .database
        .psql(&format!("grant create on database {0} to own_{0}", scene.database.name))
        .await;
    let (code, said) = ended(&scene.rowcast.start(&["setup"])).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--url postgres://OWNER@") && said.contains("posts"), "{said}");
    // What it made is of use to the owner's.
    scene.passes(&["setup"]).await;
    assert_eq!(scene.triggers().await, "posts");
}

#[tokio::test]
async fn rows_that_come_by_a_subscription_are_told_of() {
    let scene = Scene::new(Version::DEFAULT, POSTS, RULE).await;
    scene.passes(&["setup"]).await;
    let subscription = format!("sub_{}", scene.database.name);
    scene
        .database
        .psql(&format!(
            "create subscription {subscription} connection 'dbname=nowhere' publication p with (connect = false);
             insert into pg_subscription_rel (srsubid, srrelid, srsubstate)
             select oid, 'posts'::regclass, 'r' from pg_subscription where subname = '{subscription}'"
        ))
        .await;
    scene
        .finds(
            &[("posts", &["user_id"])],
            Kind::TableSubscribed,
            false,
            "subscription of logical replication",
        )
        .await;
    scene.database.psql(&format!("alter subscription {subscription} set (slot_name = none); drop subscription {subscription}")).await;
}
