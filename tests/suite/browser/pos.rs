//! Two desks.

use super::Scene;
use crate::harness::browser::Window;

const ROWS: &str = "insert into orders (number) select 'K-' || i from generate_series(1, 100) i;
    insert into registrations (name) values ('Kim');";

async fn desk(scene: &Scene) -> Window<'_> {
    let desk = scene.open("pos.html").await;
    desk.until(&format!("{} == 'pending'", status(100))).await;
    desk
}

/// Somebody is reading down the list and has begun a note.
async fn begin_a_note(desk: &Window<'_>) -> String {
    desk.type_into("[data-id='90'] .note", "two bl").await;
    let scroll = "document.querySelector('[data-id=\"90\"] .note').setSelectionRange(1, 3);
        document.getElementById('orders').scrollBy(0, 20)";
    desk.run(scroll).await;
    reading(desk).await
}

/// Where the list is scrolled to, which note has the focus, what is typed there, and what of it is selected.
async fn reading(desk: &Window<'_>) -> String {
    let reading = "(() => {
        const note = document.activeElement;
        return JSON.stringify([document.getElementById('orders').scrollTop, note.closest('tr').dataset.id,
                               note.value, note.selectionStart, note.selectionEnd]);
    })()";
    desk.run(reading).await.as_str().expect("it is JSON in a text").to_owned()
}

/// What a desk shows of an order, as JavaScript.
fn status(id: u32) -> String {
    format!("document.querySelector('[data-id=\"{id}\"] [data-column=status]')?.textContent")
}

/// Asks the application, and says when it had committed.
async fn next(desk: &Window<'_>, id: u32) -> f64 {
    let post =
        format!("fetch('/api/orders/{id}/next', {{ method: 'POST' }}).then((it) => it.json())");
    desk.run(&post).await["committed_ms"].as_f64().expect("the site answers it")
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

#[tokio::test]
async fn what_is_done_at_one_desk_appears_at_the_other_and_disturbs_nobody_there() {
    let scene = Scene::of("pos", ROWS).await;
    let (ours, theirs) = tokio::join!(desk(&scene), desk(&scene));
    print_latencies(&ours, &theirs).await;
    let begun = begin_a_note(&theirs).await;
    assert!(begun.contains(r#""90","two bl",1,3"#), "{begun}");

    ours.run("document.querySelector('[data-id=\"89\"] .next').click()").await;
    theirs.until(&format!("{} == 'payment'", status(89))).await;
    assert_eq!(reading(&theirs).await, begun);

    // The second comes within the window that the first opened.
    next(&ours, 90).await;
    next(&ours, 90).await;
    theirs.until(&format!("{} == 'paid'", status(90))).await;
    assert_eq!(reading(&theirs).await, begun);

    ours.type_into("#number", "K101").await;
    ours.run("document.querySelector('#new button').click()").await;
    theirs
        .until("document.getElementById('orders').lastElementChild.innerText.includes('K101')")
        .await;
    ours.run("document.querySelector('[data-id=\"100\"] .cancel').click()").await;
    theirs.until(&format!("{} === undefined", status(100))).await;

    scene.database.psql("update orders set status = 'released' where id <= 80").await;
    let released = "[...document.querySelectorAll('#orders [data-column=status]')]
        .filter((it) => it.textContent == 'released').length == 80";
    theirs.until(released).await;

    scene.database.psql("update registrations set status = 'released', released_at = now()").await;
    let registrations = "document.getElementById('registrations').innerText";
    theirs.until(&format!("{registrations} == 'Kim: released'")).await;
    scene.database.psql("insert into registrations (name) values ('Lee')").await;
    theirs.until(&format!("{registrations}.includes('Lee: waiting')")).await;
    assert_eq!(reading(&theirs).await, begun);
}

/// From commit at one desk to the change of the DOM at the other.
#[expect(clippy::print_stdout, reason = "figures that the issue asks for")]
async fn print_latencies(ours: &Window<'_>, theirs: &Window<'_>) {
    let (mut first_ms, mut second_ms) = (Vec::new(), Vec::new());
    // The first few are to warm up.
    for id in 1..=55 {
        let shown = format!("{} == 'payment'", status(id));
        let (shown, committed) = tokio::join!(theirs.until(&shown), next(ours, id));
        first_ms.push(shown - committed);
    }
    first_ms.drain(..5);
    for id in 1..=30 {
        let shown = format!("{} == 'released'", status(id));
        let twice = async {
            next(ours, id).await;
            next(ours, id).await
        };
        let (shown, committed) = tokio::join!(theirs.until(&shown), twice);
        second_ms.push(shown - committed);
    }
    first_ms.sort_by(f64::total_cmp);
    second_ms.sort_by(f64::total_cmp);
    println!(
        "pos: commit at one desk to DOM change at the other: p50 {:.0} ms, p99 {:.0} ms; \
         the second of two quick changes: p50 {:.0} ms, p99 {:.0} ms",
        percentile(&first_ms, 50),
        percentile(&first_ms, 99),
        percentile(&second_ms, 50),
        percentile(&second_ms, 99),
    );
}
