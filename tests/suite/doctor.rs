//! `rowcast doctor` as an operator reads it: for a healthy set-up and for broken ones, each broken for real.
//!
//! What it says is in `doctor/golden`, without what differs from one run to the next. To write it anew:
//! `ROWCAST_BLESS=1 cargo test --test suite doctor`.

mod triggers;
mod wal;

use std::{env, fs, path::PathBuf};

use serde_json::Value;

use crate::harness::{database::Database, process::Process, rowcast::Rowcast, wait::SOON};

/// What `doctor` printed, and its exit code.
struct Said {
    code: i32,
    text: String,
}

impl Said {
    async fn by(rowcast: &Rowcast) -> Said {
        Said::of(&rowcast.start_with(&["doctor"], &[("LC_ALL", "C.UTF-8")])).await
    }

    async fn of(doctor: &Process) -> Said {
        let code = doctor.exit_code(SOON).await;
        Said { code, text: doctor.stdout.all().join("\n") }
    }

    /// The lines below these headings.
    fn sections(&self, names: &[&str]) -> String {
        let mut wanted = false;
        let mut text = String::new();
        for line in self.text.lines().filter(|line| !line.is_empty()) {
            if !line.starts_with(' ') {
                wanted = names.contains(&line);
            }
            if wanted {
                text += line;
                text.push('\n');
            }
        }
        text
    }

    /// Compares what it said of the database and the rules with a file.
    fn is_golden(&self, name: &str, database: &Database) {
        let text = normal(&self.sections(&["database", "rules"]), database);
        assert_eq!(self.code, i32::from(self.text.contains("✗")), "{}", self.text);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/suite/doctor/golden/{name}.txt"));
        if env::var_os("ROWCAST_BLESS").is_some() {
            fs::write(&path, &text).expect("the folder is writable");
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(text == golden, "{name}: expected\n{golden}\nfound\n{text}");
    }
}

/// Without what differs: names and ports of this run, processes, sizes, and the server's minor version.
fn normal(text: &str, database: &Database) -> String {
    let mut text = text
        .replace(&format!("127.0.0.1:{}", database.cluster.port()), "127.0.0.1:5432")
        .replace(&database.slot(), "rowcast");
    text = with_word(&text, &database.name, "shop");
    for before in ["backend ", "pg_terminate_backend(", "Postgres 15."] {
        text = without_number_after(&text, before);
    }
    let Some((before, kept)) = text.split_once("it keeps ") else { return text };
    let (_, after) = kept.split_once(" of log").expect("it says of what");
    format!("{before}it keeps N MB of log{after}")
}

fn with_word(text: &str, word: &str, other: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let is_word = !before.ends_with(is_part) && !after.starts_with(is_part);
        found += before;
        found += if is_word { other } else { word };
        rest = after;
    }
    found + rest
}

fn without_number_after(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut found = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        found += before;
        found += if number > 0 { "N" } else { "" };
        found += &part[number..];
    }
    found
}

/// The verdicts that `--json` counts.
async fn verdicts(rowcast: &Rowcast) -> Vec<(String, String)> {
    let doctor = rowcast.start(&["doctor", "--json"]);
    let ok = doctor.exit_code(SOON).await == 0;
    let report: Value = serde_json::from_str(&doctor.stdout.all().join("\n")).expect("it is JSON");
    assert_eq!(report["ok"], ok, "{report}");
    let sections = report["sections"].as_array().expect("a list");
    let checks = sections.iter().flat_map(|section| section["checks"].as_array().expect("a list"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    checks.map(|check| (text(&check["name"]), text(&check["verdict"]))).collect()
}
