//! A scene as it is written in `tests/contract`: tables, rules, and steps with what these tell.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::harness::{capture::Capture, cluster::Version};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// The file's.
    #[serde(skip)]
    pub name: String,
    /// Made before rowcast is set up. Scenes are played in one database.
    pub schema: String,
    #[serde(rename = "rule")]
    pub rules: Vec<toml::Table>,
    pub broadcast: Option<toml::Table>,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub claim: String,
    /// The first version of Postgres that has it.
    pub since: Option<u32>,
    pub sql: Scripts,
    /// Each `channel event data`, in order on each channel for each `id` in the data, or `channel rowcast.resync
    /// reason`.
    pub tells: Option<Vec<String>>,
    /// Where the two may differ, what each tells, and why that is right.
    pub wal: Option<Vec<String>>,
    pub triggers: Option<Vec<String>>,
    pub why: Option<String>,
}

/// Each in one round trip: one transaction, unless it says otherwise. `b: ` before one has it run in another session,
/// `b waits: ` says that it will wait for a lock there, until the session's next one.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Scripts {
    One(String),
    Many(Vec<String>),
}

impl Scripts {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let scripts = match self {
            Self::One(script) => std::slice::from_ref(script),
            Self::Many(scripts) => scripts.as_slice(),
        };
        scripts.iter().map(String::as_str)
    }
}

impl Scene {
    /// In the order of their names.
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract");
        let entries = fs::read_dir(folder).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let mut scenes: Vec<Self> = paths.map(|path| Self::load(&path)).collect();
        scenes.sort_by(|one, other| one.name.cmp(&other.name));
        scenes
    }

    fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("it can be read");
        let scene = toml::from_str(&text);
        let mut scene: Self = scene.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        scene.name = path.file_stem().expect("it has a name").display().to_string();
        for step in &scene.steps {
            let differs = step.wal.is_some() && step.triggers.is_some() && step.why.is_some();
            let is_one = step.wal.is_none() && step.triggers.is_none() && step.why.is_none();
            let at = format!("{}: {}", scene.name, step.claim);
            assert!(differs || is_one, "{at}: wal, triggers and why belong together");
            assert!(is_one || step.tells.is_none(), "{at}: tells is for both");
        }
        scene
    }
}

impl Step {
    pub fn is_in(&self, version: Version) -> bool {
        self.since.is_none_or(|since| version.major() >= since)
    }

    pub fn tells(&self, capture: Capture) -> &[String] {
        let own = match capture {
            Capture::Wal => &self.wal,
            Capture::Triggers => &self.triggers,
        };
        own.as_ref().or(self.tells.as_ref()).map_or(&[], Vec::as_slice)
    }
}
