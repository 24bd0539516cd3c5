//! A writer's dashboard.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::Scene;
use crate::harness::{
    browser::Window,
    proxy::{Proxy, Which},
    sockudo::Sockudo,
};

const ROWS: &str = "insert into users (name, email, password) values ('Ann', 'ann@localhost', ''), ('Ben', 'ben@localhost', '');
    insert into posts (user_id, title, slug, content, status)
    select 1, 'Post ' || i, 'post-' || i, '', 'draft' from generate_series(1, 60) i;";

/// What the dashboard shows, as JavaScript.
fn text(element: &str) -> String {
    format!("document.getElementById('{element}').textContent")
}

fn column(post: u32, column: &str) -> String {
    format!("document.querySelector('[data-id=\"{post}\"] [data-column={column}]')?.textContent")
}

async fn ann(scene: &Scene) -> Window<'_> {
    let ann = scene.open("blog.html?me=1").await;
    ann.until(&format!("{} == 'Post 60'", column(60, "title"))).await;
    ann.until(&format!("{} == 'connected'", text("connection"))).await;
    ann.until(&format!("{} == 'Ann'", text("online"))).await;
    ann.until(&format!("{} == '0'", text("comments"))).await;
    ann
}

/// How far the list is scrolled, whether the draft has the focus, and its text with what is selected of it.
async fn at_work(ann: &Window<'_>) -> String {
    let at_work = "(() => {
        const draft = document.activeElement;
        return JSON.stringify([document.getElementById('posts').scrollTop, draft.id, draft.value,
                               draft.selectionStart, draft.selectionEnd]);
    })()";
    ann.run(at_work).await.as_str().expect("it is JSON in a text").to_owned()
}

#[tokio::test]
async fn a_dashboard_follows_every_change_while_its_writer_types() {
    let scene = Scene::of("blog", ROWS).await;
    let ann = ann(&scene).await;
    ann.type_into("#draft", "Once upon").await;
    ann.run("document.getElementById('draft').setSelectionRange(2, 4)").await;
    ann.run("document.getElementById('posts').scrollTop = 300").await;
    let begun = at_work(&ann).await;
    assert_eq!(begun, r#"[300,"draft","Once upon",2,4]"#);

    let database = &scene.database;
    database
        .psql("insert into posts (user_id, title, slug, content) values (2, 'New', 'new', '')")
        .await;
    ann.until(&format!("{} == 'New'", column(61, "title"))).await;
    ann.until(&format!("{} == 'Ben'", column(61, "author"))).await;
    database.psql("update posts set title = 'Changed' where id = 59").await;
    ann.until(&format!("{} == 'Changed'", column(59, "title"))).await;
    database.psql("delete from posts where id = 60").await;
    ann.until(&format!("{} === undefined", column(60, "title"))).await;
    database.psql("update posts set status = 'published' where id <= 50").await;
    let published = "[...document.querySelectorAll('[data-column=status]')]
        .filter((it) => it.textContent == 'published').length == 50";
    ann.until(published).await;
    // Of two comments one is on a post of hers.
    database
        .psql(
            "insert into comments (post_id, user_id, content) values (59, 2, 'Ah'), (61, 1, 'Oh')",
        )
        .await;
    ann.until(&format!("{} == '1'", text("comments"))).await;
    assert_eq!(at_work(&ann).await, begun);

    let ben = scene.open("blog.html?me=2").await;
    for window in [&ann, &ben] {
        window.until(&format!("{} == 'Ann, Ben'", text("online"))).await;
    }
    database.psql("update posts set title = 'Again' where id = 59").await;
    for window in [&ann, &ben] {
        window.until(&format!("{} == 'Again'", column(59, "title"))).await;
        window.until(&format!("{} == 'Ann, Ben'", text("online"))).await;
    }
    ben.close().await;
    ann.until(&format!("{} == 'Ann'", text("online"))).await;
    assert_eq!(at_work(&ann).await, begun);

    // Told as a resync.
    database.psql("truncate posts cascade").await;
    ann.until("document.getElementById('posts').children.length == 0").await;
    ann.until(&format!("{} == '0'", text("comments"))).await;
    assert_eq!(at_work(&ann).await, begun.replace("300", "0"));
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a figure that the issue asks for")]
async fn a_dashboard_that_was_cut_off_during_a_change_is_current_again() {
    const OUTAGE: Duration = Duration::from_secs(5);
    let sockudo = Sockudo::start().await;
    let mut proxy = Proxy::to(([127, 0, 0, 1], sockudo.port).into());
    let scene = Scene::with("blog", ROWS, sockudo, proxy.port()).await;
    let ann = ann(&scene).await;

    proxy.refuse().await;
    proxy.cut(Which::All);
    let back = Instant::now() + OUTAGE;
    ann.until(&format!("{} != 'connected'", text("connection"))).await;
    scene.database.psql("update posts set title = 'Missed' where id = 1").await;
    sleep_until(back.into()).await;
    assert_eq!(ann.run(&column(1, "title")).await, "Post 1");

    proxy.come_back();
    let begun = Instant::now();
    ann.until(&format!("{} == 'Missed'", column(1, "title"))).await;
    println!("blog: current {:.1} s after an outage of {OUTAGE:?}", begun.elapsed().as_secs_f32());
    ann.until(&format!("{} == 'connected'", text("connection"))).await;
    ann.until(&format!("{} == 'Ann'", text("online"))).await;
    scene.database.psql("update posts set title = 'Heard' where id = 1").await;
    ann.until(&format!("{} == 'Heard'", column(1, "title"))).await;
}
