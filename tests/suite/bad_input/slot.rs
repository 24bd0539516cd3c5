//! The slot is somebody else's.

use super::{RULE, Scene, line, said};
use crate::harness::{cluster::Version, database::Database, wait::SOON};

#[tokio::test]
async fn a_slot_in_use_is_waited_for_and_taken_over() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let holder = scene.run().await;
    let slot = scene.database.slot();
    let pid = format!("select active_pid from pg_replication_slots where slot_name = '{slot}'");
    let pid = scene.database.psql(&pid).await;

    let standby = scene.rowcast.start(&["run"]);
    let told = line(&standby, 0, "in use").await;
    let what = format!(
        "slot {slot} is in use by backend {pid}: waiting until it is free; nothing is lost: the \
         slot keeps what was not delivered"
    );
    assert!(told.contains("WARN") && told.contains(&what), "{told}");
    assert!(told.contains(&format!("pg_stat_replication WHERE pid = {pid}")), "{told}");
    scene.insert(1).await;
    scene.arrives(1).await;
    assert!(standby.is_running());

    holder.kill9();
    holder.ended(SOON).await;
    scene.insert(2).await;
    line(&standby, 0, "streaming changes").await;
    scene.arrives(2).await;
    let said = said(&standby);
    assert_eq!(said.matches("in use by backend").count(), 1, "said once: {said}");
    assert_eq!(said.matches("max_slot_wal_keep_size is -1").count(), 1, "said once: {said}");
    scene.endpoint.assert_strict();
}

#[tokio::test]
async fn a_slot_of_another_program_or_database_is_left_alone() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let elsewhere = Database::on(Version::DEFAULT).await;
    let (name, other) = (&scene.database.name, &elsewhere.name);
    scene.insert(1).await;
    let make = |maker: &str| format!("select pg_create_{maker}");
    scene
        .database
        .psql(
            &[
                make(&format!("logical_replication_slot('plugin_{name}', 'test_decoding');")),
                make(&format!("physical_replication_slot('physical_{name}');")),
            ]
            .concat(),
        )
        .await;
    elsewhere.psql(&make(&format!("logical_replication_slot('there_{name}', 'pgoutput')"))).await;

    for (slot, told) in [
        (
            format!("plugin_{name}"),
            "belongs to the output plugin test_decoding, so to another program: rowcast reads \
             pgoutput"
                .to_owned(),
        ),
        (
            format!("physical_{name}"),
            "is a physical one, which a standby uses: rowcast cannot read it".to_owned(),
        ),
        (
            format!("there_{name}"),
            format!("is of database {other:?}, and [database] url leads to {name:?}"),
        ),
    ] {
        scene.configure(|text| {
            *text = text.replace(&scene.database.slot(), &slot);
        });
        let fix = "choose another name under [database] slot, then rowcast setup";
        let told = format!("error: slot {slot} {told}\nhelp: {fix}");
        assert_eq!(scene.refused().await, (1, told.clone()));
        let setup = scene.rowcast.start(&["setup"]);
        assert_eq!((setup.exit_code(SOON).await, said(&setup)), (1, told));
    }
    let left = format!("select count(*) from pg_replication_slots where slot_name like '%_{name}'");
    assert_eq!(scene.database.psql(&left).await, "4", "none was dropped or made anew");
    scene.configure(|_| ());
    scene.arrives_now(1).await;
    scene.database.psql(&format!("select pg_drop_replication_slot('physical_{name}')")).await;
}

#[tokio::test]
async fn a_slot_that_is_not_there_is_told_with_what_it_costs() {
    let scene = Scene::before_setup(Database::on(Version::DEFAULT).await, RULE).await;
    let (slot, publication) = (scene.database.slot(), &scene.database.name);
    let (code, said) = scene.refused().await;
    assert_eq!(
        said,
        format!(
            "error: slot {slot} does not exist: Postgres keeps no changes for rowcast, and those \
             until it is made are not announced\nhelp: rowcast setup\n\n\
             error: publication {publication} does not exist: no change is sent to rowcast, and \
             those committed without it never will be\nhelp: rowcast setup"
        )
    );
    assert_eq!(code, 1);
    scene.set_up().await;
    scene.insert(1).await;
    scene.arrives_now(1).await;
}
