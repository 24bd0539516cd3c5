//! What README.md says is so.

use std::{fs, path::Path};

use crate::harness::{rowcast::Rowcast, scratch, wait::SOON};

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("README.md is there")
}

#[tokio::test]
async fn every_command_has_a_row_in_the_readme_and_every_row_a_command() {
    let help = Rowcast::without_config().start(&["--help"]);
    assert_eq!(help.exit_code(SOON).await, 0);
    let lines = help.stdout.all();
    let mut commands: Vec<&str> = lines
        .iter()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        // What goes on from the line before stands further in.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|command| !["", "help"].contains(command))
        .collect();
    commands.sort_unstable();
    let readme = readme();
    let mut rows: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `rowcast ")?.split(['`', ' ']).next())
        .collect();
    rows.sort_unstable();
    assert!(commands.contains(&"run"), "{commands:?}");
    assert_eq!(rows, commands);
}

#[test]
fn the_quick_starts_configuration_is_valid() {
    let readme = readme();
    let (_, rest) = readme.split_once("```toml\n").expect("a TOML block");
    let (config, _) = rest.split_once("```").expect("its end");
    let folder = scratch::folder("readme");
    let path = folder.path().join("rowcast.toml");
    fs::write(&path, config).expect("the folder is writable");
    let env = |name: &str| match name {
        "ROWCAST_DB_PASSWORD" | "REVERB_APP_KEY" | "REVERB_APP_SECRET" => Some("x".to_owned()),
        "REVERB_APP_ID" => Some("1".to_owned()),
        "HOME" => Some("/home/x".to_owned()),
        _ => None,
    };
    let loaded = rowcast::config::load(&path, &env).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config.rule.len(), 1);
}
