//! The publication does not send what the rules need. Postgres decides at each change what is published, so these are
//! the inputs where something is lost, and where the text has to say so.

use super::{RULE, Scene, ids, line, said};
use crate::harness::{
    cluster::Version,
    database::Database,
    wait::{SOON, eventually},
};

#[tokio::test]
async fn a_publication_that_is_missing_is_told_with_what_it_costs() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let name = scene.database.name.clone();
    scene.insert(1).await;
    scene.database.psql(&format!("drop publication {name}")).await;
    let (code, said) = scene.refused().await;
    assert_eq!(
        said,
        format!(
            "error: publication {name} does not exist: no change is sent to rowcast, and those \
             committed without it never will be\nhelp: rowcast setup"
        )
    );
    assert_eq!(code, 1);
    // Nothing was committed without it.
    scene.set_up().await;
    scene.arrives_now(1).await;
}

#[tokio::test]
async fn a_publication_that_is_newer_than_the_slot_is_never_streamed_past_if_it_is_to_stop() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    scene.configure(|text| *text = text.replace("[run]\n", "[run]\non_slot_loss = 'stop'\n"));
    let name = scene.database.name.clone();
    scene.database.psql(&format!("drop publication {name}")).await;
    scene.insert(1).await;
    scene.set_up().await;
    let before = scene.database.confirmed().await;
    let told = format!(
        "publication {name} is not there at the slot's place in the log: it was made after the \
         slot, or dropped, so the changes there can never be read"
    );
    let fix = "rowcast setup, if it is missing; if it is there: rowcast teardown && rowcast setup, \
               which goes on from now and tells all pages to fetch again";

    let run = scene.run().await;
    let line = line(&run, 0, &told).await;
    assert!(line.contains("ERROR") && line.contains(fix), "{line}");
    assert!(!line.contains("nothing is lost"), "{line}");
    let attempt = format!("publication \"{name}\" does not exist");
    eventually(SOON, "it has tried again", async || {
        (scene.database.cluster.log().matches(&attempt).count() > 2).then_some(())
    })
    .await;
    assert!(run.is_running());
    assert_eq!(said(&run).matches(&told).count(), 1, "said once: {}", said(&run));
    run.sigterm();
    run.ended(SOON).await;
    let once = scene.rowcast.start(&["run", "--once"]);
    assert_eq!(once.exit_code(SOON).await, 1, "{}", said(&once));
    assert!(said(&once).ends_with(&format!("error: {told}\nhelp: {fix}")), "{}", said(&once));
    assert_eq!(scene.database.confirmed().await, before);

    let teardown = scene.rowcast.start(&["teardown"]);
    assert_eq!(teardown.exit_code(SOON).await, 0, "{}", said(&teardown));
    scene.set_up().await;
    scene.insert(2).await;
    scene.arrives_now(2).await;
    assert!(!ids(&scene.endpoint.accepted(), "posts").contains(&1));
}

#[tokio::test]
async fn a_table_dropped_from_the_publication_while_running_is_noticed_and_the_others_are_kept() {
    let database = Database::on(Version::DEFAULT).await;
    database.psql("create table tags (id int primary key)").await;
    let rules = format!("{RULE}[[rule]]\ntable = 'tags'\nchannels = ['tags']\n");
    let scene = Scene::with(database, &rules).await;
    let name = scene.database.name.clone();
    let run = scene.run().await;
    scene.insert(1).await;
    scene.arrives(1).await;
    scene.wait_confirmed().await;

    scene.database.psql(&format!("alter publication {name} drop table posts")).await;
    let told = format!(
        "publication {name} does not hold public.posts: its changes are not announced, and those \
         committed meanwhile never will be"
    );
    let line_of_cause = line(&run, 0, &told).await;
    assert!(
        line_of_cause.contains("ERROR")
            && line_of_cause.contains("rowcast setup, or: ALTER PUBLICATION"),
        "{line_of_cause}"
    );
    let pause = line(&run, 0, "streaming pauses until this is mended").await;
    assert!(!pause.contains("nothing is lost"), "{pause}");
    scene.database.psql("insert into posts values (2, 'a'); insert into tags values (7)").await;
    assert!(run.is_running());

    scene.set_up().await;
    scene.insert(3).await;
    scene.arrives(3).await;
    let is_kept = "the tag of meanwhile";
    scene.endpoint.wait_for(is_kept, |accepted| ids(accepted, "tags").contains(&7)).await;
    assert_eq!(ids(&scene.endpoint.accepted(), "posts"), [1, 3], "as it was told");
    assert_eq!(said(&run).matches(&told).count(), 1, "said once: {}", said(&run));
    scene.endpoint.assert_strict();
}
