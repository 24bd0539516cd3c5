//! The systems of `tests/systems`: each from its configuration alone, to real pages, over both captures.
//!
//! A folder has the tables as the application's migrations make them, configurations that a user would copy, for each a
//! scenario that says what is written and what the pages hear, and the page's own code.

mod browsers;
mod ledger;
mod play;
mod scenario;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use play::Play;
use scenario::Scenario;

use crate::harness::capture::{Capture, over_both};

macro_rules! systems {
    ($($claim:ident: $folder:literal $config:literal $scenario:literal;)*) => {
        const PLAYED: &[(&str, &str)] = &[$(($folder, $config)),*];

        $(
            #[tokio::test]
            async fn $claim() {
                let folder = root().join($folder);
                over_both(async |capture| play(&folder, $config, $scenario, capture).await).await;
            }
        )*
    };
}

systems! {
    admin_panel: "admin-panel" "rowcast.toml" "scenario.toml";
    blog: "blog" "rowcast.toml" "scenario.toml";
    blog_recommended: "blog" "rowcast-recommended.toml" "scenario-recommended.toml";
    event_sourced: "event-sourced" "rowcast.toml" "scenario.toml";
    stored_events: "event-sourced" "rowcast-stored-events.toml" "scenario-stored-events.toml";
    pos: "pos" "rowcast.toml" "scenario.toml";
    pos_encrypted: "pos" "rowcast-encrypted.toml" "scenario-encrypted.toml";
    provisioning: "provisioning" "rowcast.toml" "scenario.toml";
}

#[test]
fn every_configuration_of_a_system_is_played() {
    let mut found = BTreeSet::new();
    for folder in fs::read_dir(root()).expect("the folder is there") {
        let folder = folder.expect("it can be read").path();
        for file in fs::read_dir(&folder).expect("it is a folder") {
            let file =
                file.expect("it can be read").file_name().into_string().expect("it is UTF-8");
            if file.starts_with("rowcast") {
                let name = folder.file_name().and_then(|name| name.to_str()).expect("it is UTF-8");
                found.insert((name.to_owned(), file));
            }
        }
    }
    let played: BTreeSet<(String, String)> = PLAYED
        .iter()
        .map(|(folder, config)| ((*folder).to_owned(), (*config).to_owned()))
        .collect();
    assert_eq!(played, found);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systems")
}

#[expect(clippy::print_stdout, reason = "figures are reported, not asserted")]
async fn play(folder: &Path, config: &str, scenario: &str, capture: Capture) {
    let scenario = Scenario::load(&folder.join(scenario));
    let shown: BTreeSet<&String> = scenario.steps.iter().flat_map(|step| &step.rows).collect();
    let rows: BTreeSet<&String> = scenario.rows.iter().collect();
    assert_eq!(shown, rows, "the rows that steps show, and those of the system's table");

    let mut play = Play::prepare(folder, config, &scenario, capture).await;
    play.resync_by_a_first_start(&scenario).await;
    let run = play.run().await;
    for (index, step) in scenario.steps.iter().enumerate() {
        play.step(index + 1, step).await;
    }
    play.reconnect(&scenario).await;
    play.stop(run).await;
    play.nothing_more().await;

    let mut latencies_ms = play.latencies_ms();
    latencies_ms.sort_by(f64::total_cmp);
    let at = |share: f64| latencies_ms[(latencies_ms.len() as f64 * share) as usize];
    println!(
        "{}/{config} over {capture}: rows of the table {} of {}, {} messages, commit to page p50 {:.0} ms, p99 {:.0} ms",
        folder.file_name().expect("it has a name").display(),
        shown.len(),
        rows.len(),
        latencies_ms.len(),
        at(0.50),
        at(0.99),
    );
}
