//! The server panel, in React with Laravel's own hooks.

use std::time::Instant;

use super::Scene;
use crate::harness::{
    browser::Window,
    wait::{SOON, eventually},
};

const ROWS: &str = "insert into servers (user_id, vanity_name)
    select 1, 'Server ' || i from generate_series(1, 30) i;
    insert into server_firewalls (server_id) values (1);
    insert into server_sites (server_id, domain) values (1, 'one.localhost');";

/// What the panel shows, as JavaScript.
fn text(element: &str) -> String {
    format!("document.getElementById('{element}')?.textContent")
}

async fn panel(scene: &Scene) -> Window<'_> {
    let panel = scene.open("provisioning.html?me=1").await;
    panel.until("document.querySelectorAll('#servers li').length == 30").await;
    panel.until(&format!("{} == 'connected'", text("connection"))).await;
    // At once, and when the channel is joined.
    for path in ["/api/servers/1", "/api/servers", "/api/sites/1"] {
        let fetched = async || (panel.requests(path).await >= 2).then_some(());
        eventually(SOON, "the channel is joined", fetched).await;
    }
    panel
}

/// Returns when the panel has heard of all that is committed, and knows it by a change of its site.
async fn heard(scene: &Scene, panel: &Window<'_>, site: &str) {
    scene.announced().await;
    scene.database.psql(&format!("update server_sites set status = '{site}'")).await;
    panel.until(&format!("{} == 'one.localhost: {site}'", text("site"))).await;
}

/// How often the panel has fetched for the channel of one server and for that of all.
async fn fetches(panel: &Window<'_>) -> [u64; 2] {
    [panel.requests("/api/servers/1").await, panel.requests("/api/servers").await]
}

/// How far the list is scrolled, whether the input has the focus, and its text.
async fn at_work(panel: &Window<'_>) -> String {
    let at_work = "(() => {
        const input = document.activeElement;
        return JSON.stringify([document.getElementById('servers').scrollTop, input.id, input.value]);
    })()";
    panel.run(at_work).await.as_str().expect("it is JSON in a text").to_owned()
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures that the issue asks for")]
async fn a_panel_follows_every_change_and_many_at_once_by_few_fetches() {
    let scene = Scene::of("provisioning", ROWS).await;
    let panel = panel(&scene).await;
    panel.type_into("#rename", "web-").await;
    panel.run("document.getElementById('servers').scrollTop = 200").await;
    let begun = at_work(&panel).await;
    assert_eq!(begun, r#"[200,"rename","web-"]"#);

    let database = &scene.database;
    database.psql("update servers set provision_status = 'provisioning' where id = 1").await;
    panel.until(&format!("{} == 'provisioning'", text("status"))).await;
    database.psql("update servers set provision_status = 'ready'").await;
    let ready =
        "[...document.querySelectorAll('#servers b')].every((it) => it.textContent == 'ready')";
    panel.until(ready).await;
    assert_eq!(at_work(&panel).await, begun);

    heard(&scene, &panel, "installing").await;
    let before = fetches(&panel).await;
    let begun_at = Instant::now();
    database
        .psql(
            r#"do $$
            declare begun timestamptz := clock_timestamp();
            begin
                for step in 1..200 loop
                    update servers set provision = jsonb_build_object('step', step) where id = 1;
                    commit;
                    perform pg_sleep_until(begun + step * interval '10 ms');
                end loop;
            end $$"#,
        )
        .await;
    // On a machine that is too busy for 200 commits in two seconds there are more windows.
    let windows = begun_at.elapsed().as_millis() as u64 / 500;
    let most = windows.max(4) + 2;
    panel.until(&format!("{} == '200'", text("step"))).await;
    heard(&scene, &panel, "installed").await;
    let [one, all] = fetches_since(&panel, before).await;
    println!("provisioning: 200 updates in two seconds: {one} and {all} fetches");
    assert!(one <= most && all <= most, "{one} and {all} fetches for 200 updates");

    let before = fetches(&panel).await;
    database
        .psql(
            "insert into server_firewall_rules (server_firewall_id, name, port)
             select 1, 'rule ' || i, i from generate_series(1, 50) i",
        )
        .await;
    panel.until("document.getElementById('rules').children.length == 50").await;
    panel
        .until("document.querySelector('#servers [data-id=\"1\"]').innerText.includes('50 rules')")
        .await;
    heard(&scene, &panel, "deployed").await;
    let [one, all] = fetches_since(&panel, before).await;
    println!("provisioning: 50 firewall rules at once: {one} and {all} fetches");
    assert!(one <= 2 && all <= 2, "{one} and {all} fetches for 50 firewall rules");

    // By the cascade: nobody names the rules.
    database.psql("delete from server_firewalls").await;
    panel.until("document.getElementById('rules').children.length == 0").await;
    assert_eq!(at_work(&panel).await, begun);
}

async fn fetches_since(panel: &Window<'_>, before: [u64; 2]) -> [u64; 2] {
    let now = fetches(panel).await;
    [now[0] - before[0], now[1] - before[1]]
}
