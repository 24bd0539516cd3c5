//! What is left once `rowcast teardown` was there.

use super::*;

const LEFT: &str = "
    select relname from pg_class where relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
        and relnamespace <> 'information_schema'::regnamespace order by 1;
    select oid, proname from pg_proc where oid > 16383 order by 1;
    select tgname from pg_trigger; select nspname, nspacl from pg_namespace where oid > 16383 order by 1;
    select pubname from pg_publication; select typname from pg_type where oid > 16383 order by 1;";

async fn nothing_is_left_and_the_application_goes_on(version: Version) {
    let rules = [RULE, EVENTS_RULE].concat();
    let scene = Scene::new(version, &[POSTS, PARTITIONED].concat(), &rules).await;
    let before = scene.database.psql(LEFT).await;
    scene.passes(&["setup"]).await;
    scene.writes("insert into posts values (1, 7); insert into events values (1, 1)").await;
    // Of a table that was renamed, moved, or left by the rules meanwhile too.
    scene.writes("create schema attic; alter table posts rename to old_posts; alter table old_posts set schema attic").await;
    scene.configure(EVENTS_RULE);
    scene.passes(&["teardown"]).await;
    scene.writes("alter table attic.old_posts set schema public; alter table old_posts rename to posts; drop schema attic").await;
    assert_eq!(scene.database.psql(LEFT).await, before);
    scene.writes("update posts set user_id = 8; delete from events; truncate events").await;

    let said = scene.passes(&["teardown"]).await;
    assert!(said.contains("unchanged  outbox rowcast.outbox is not there"), "{said}");
    assert!(!said.contains("changed    "), "{said}");
}

#[tokio::test]
async fn nothing_is_left_and_the_application_goes_on_on_14() {
    nothing_is_left_and_the_application_goes_on(Version::V14).await;
}

#[tokio::test]
async fn nothing_is_left_and_the_application_goes_on_on_18() {
    nothing_is_left_and_the_application_goes_on(Version::V18).await;
}

#[tokio::test]
async fn an_outbox_that_is_read_stays_and_so_does_all_else() {
    let scene = Scene::new(Version::DEFAULT, POSTS, RULE).await;
    scene.passes(&["setup"]).await;
    let reader = scene.database.client().await;
    let lock = format!("select pg_advisory_lock({})", rowcast::postgres::outbox::LOCK);
    reader.batch_execute(&lock).await.expect("nobody has it");
    let pid: i32 = reader.query_one("select pg_backend_pid()", &[]).await.expect("open").get(0);
    let (code, said) = scene.run(&["teardown"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("backend {pid}")) && said.contains("--only wal"), "{said}");
    assert_eq!(scene.triggers().await, "posts");
    drop(reader);
}

/// Each capture says what is left of the other, which `--only` removes.
#[tokio::test]
async fn a_change_of_capture_tells_what_is_left_of_the_other() {
    let database = Database::on(Version::DEFAULT).await;
    database.psql(POSTS).await;
    let slot = database.slot();
    let names = format!("slot = '{slot}'\npublication = '{slot}'\n[pusher]");
    let of = |capture: &str| {
        let config = config(&database.url(), RULE).replace("[pusher]", &names);
        config.replace("'triggers'", &format!("'{capture}'"))
    };
    let rowcast = Rowcast::new(&of("wal"));
    let run = async |arguments: &[&str]| {
        let (code, said) = ended(&rowcast.start(arguments)).await;
        assert_eq!(code, 0, "{said}");
        said
    };
    run(&["setup", "--identity"]).await;
    rowcast.configure(&of("triggers"));
    let said = run(&["setup"]).await;
    assert!(said.contains(&format!("slot {slot} is left of capture = \"wal\"")), "{said}");
    run(&["teardown", "--only", "wal"]).await;
    let said = run(&["setup"]).await;
    assert!(!said.contains("is left of") && !said.contains("changed    "), "{said}");

    rowcast.configure(&of("wal"));
    let said = run(&["setup"]).await;
    assert!(
        said.contains("triggers are left of capture = \"triggers\", on public.posts"),
        "{said}"
    );
    run(&["teardown", "--only", "triggers"]).await;
    let said = run(&["setup"]).await;
    assert!(!said.contains("are left of") && !said.contains("changed    "), "{said}");

    rowcast.configure(&of("triggers"));
    run(&["setup"]).await;
    run(&["teardown"]).await;
    let left = format!(
        "select count(*) from pg_replication_slots where slot_name = '{slot}';
         select count(*) from pg_publication; select to_regnamespace('rowcast')"
    );
    assert_eq!(database.psql(&left).await.trim(), "0\n0");
}
