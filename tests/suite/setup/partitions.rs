//! Partitioned tables, whose old rows are their partitions'.

use super::*;

pub(super) const PARTITIONED: &str = "
create table events (id int not null, at date not null, user_id int not null, note text,
    primary key (id, at)) partition by range (at);
create table events_a partition of events for values from ('2020-01-01') to ('2021-01-01');
create table events_b partition of events for values from ('2021-01-01') to ('2023-01-01')
    partition by range (at);
create table events_b1 partition of events_b for values from ('2021-01-01') to ('2022-01-01');
";

async fn partitions_get_the_identity_of_their_root(version: Version) {
    let mut site = Site::new(version, PARTITIONED).await;
    // As a glob would: the root and its partitions.
    site.wanted = vec![("events", &["user_id"]), ("events_a", &["user_id"])];
    site.setup().await;
    assert_eq!(site.published().await, "events");
    for table in ["events", "events_a", "events_b1"] {
        let relation = site.relation(table).await;
        assert_eq!(identity_columns(&relation), ["id", "at", "user_id"], "{table}");
    }
    assert_eq!(site.kinds().await, []);
    assert_eq!(site.setup().await, [""; 0]);

    let new = "create table events_c partition of events for values from ('2024-01-01') to ('2025-01-01')";
    site.database.psql(new).await;
    assert_eq!(site.kinds().await, [Kind::Identity], "a new partition has its own identity");
    let sql = site.setup().await;
    assert_eq!(sql.len(), 1, "Postgres made the index with the partition: {sql:?}");
    assert_eq!(site.kinds().await, []);

    let (snapshot, indexes) = site.snapshot().await;
    site.run(&identity::removal(&snapshot.tables, &indexes)).await;
    assert_eq!(identity::own_indexes(&site.client).await.expect("readable"), []);
    assert_eq!(site.relation("events_b1").await.identity, ReplicaIdentity::Default);
}

#[tokio::test]
async fn a_rule_on_a_partition_whose_root_another_rule_takes_is_told_that_it_never_fires() {
    let mut site = Site::new(Version::DEFAULT, PARTITIONED).await;
    site.wanted = vec![("events", &[]), ("events_a", &[])];
    site.setup().await;
    let (snapshot, _) = site.snapshot().await;
    let mut needs = site.needs(&snapshot.tables);
    let found = |needs: &[Need]| {
        let findings = check(&snapshot, &site.expected(needs));
        findings.into_iter().find(|finding| finding.kind == Kind::PartitionOfPublished)
    };
    assert_eq!(found(&needs), None, "one rule takes both, as a glob does");
    needs[1].rules.push("old".into());
    let finding = found(&needs).expect("the rule is dead");
    assert!(finding.is_error());
    let says = r#"rule "old" never announces changes of public.events_a"#;
    assert!(finding.message.contains(says), "{finding}");
    assert!(finding.fix.contains(r#"table = "public.events""#), "{finding}");
}

#[tokio::test]
async fn partitions_get_the_identity_of_their_root_on_14() {
    partitions_get_the_identity_of_their_root(Version::V14).await;
}

#[tokio::test]
async fn partitions_get_the_identity_of_their_root_on_18() {
    partitions_get_the_identity_of_their_root(Version::V18).await;
}

#[tokio::test]
async fn a_full_root_with_another_partition_is_refused() {
    let mut site = Site::new(
        Version::DEFAULT,
        &format!(
            "{PARTITIONED} alter table events replica identity full;
             alter table events_a replica identity full;"
        ),
    )
    .await;
    site.wanted = vec![("events", &[])];
    let refusal = site.plan(Identities::Keep).await.expect_err("a NULL would be taken for a value");
    assert!(refusal.to_string().contains("look like NULL"), "{refusal}");
    site.setup().await;
    assert_eq!(site.relation("events_b1").await.identity, ReplicaIdentity::Full);
}
