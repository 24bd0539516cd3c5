//! This machine: the state folder, and what is in it. Nothing there is changed,
//! but for a file that is made and removed again.

use std::fs::{self, Metadata};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use serde::Deserialize;

use super::report::{Check, Report};
use crate::cli::run::state_name;
use crate::cli::units::Bytes;
use crate::config::Loaded;
use crate::deliver::RejectedFile;
use crate::state::{State, StateFile};

const FOLDER: &str = "state folder";
const SPACE: &str = "free space";
const STATE: &str = "state";
const REJECTED: &str = "rejected";

/// For the two rejected files, and what else is written beside them.
const ENOUGH_BYTES: u64 = 2 * RejectedFile::MAX.bytes() + 64 * 1024 * 1024;
/// Below this not even the state may be written.
const LEAST_BYTES: u64 = 1024 * 1024;
/// `sun_path` of a Unix socket, with its zero at the end.
const MAX_SOCKET_PATH: usize = 107;

/// # Errors
/// If the database's name is not known, by which the state is called.
pub(super) fn check(loaded: &Loaded, report: &mut Report) -> anyhow::Result<()> {
    let folder = &loaded.config.run.state_dir;
    let name = state_name(&loaded.config.database)?;
    report.section("this machine");
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.add(missing(folder));
            return Ok(());
        }
        Err(error) => {
            report.add(Check::fails(FOLDER, format!("{}: {error}", folder.display()), None));
            return Ok(());
        }
    };
    let file = StateFile::open(folder, &name);
    report.add(match &file {
        Ok(_) => writable(folder, &metadata, &name),
        Err(error) => unwritable(folder, &metadata, &crate::chain::line(error)),
    });
    if let Ok(space) = statvfs(folder.as_path()) {
        report.add(free(space.f_bavail.saturating_mul(space.f_frsize)));
    }
    if let Ok(file) = &file {
        report.add(state(file.path()));
    }
    report.add(rejected(&folder.join("rejected.jsonl")));
    Ok(())
}

/// `rowcast run` makes it, if it may.
fn missing(folder: &Path) -> Check {
    let shown = folder.display();
    let mut parents =
        folder.ancestors().skip(1).map(|parent| match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        });
    let Some(parent) = parents.find(|parent| parent.exists()) else {
        return Check::fails(FOLDER, format!("{shown} is not there, nor what it is in"), None);
    };
    match access(parent, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => {
            Check::holds(FOLDER, format!("{shown} is not there yet: the first start makes it"))
        }
        Err(_) => Check::fails(
            FOLDER,
            format!("{shown} is not there, and {} is not ours to write", parent.display()),
            format!("install -d -m 700 -o USER {shown}; or another state_dir in [run]"),
        ),
    }
}

fn writable(folder: &Path, metadata: &Metadata, name: &str) -> Check {
    let shown = folder.display();
    let mode = metadata.permissions().mode() & 0o7777;
    let found = format!("{shown}, of user {}, mode {mode:o}", metadata.uid());
    if mode & 0o022 != 0 {
        let found = format!("{found}: other users may replace what rowcast keeps there");
        return Check::advice(FOLDER, found, format!("chmod 700 {shown}"));
    }
    let socket = folder.join(format!("{name}.sock"));
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        let found = format!(
            "{found}: its path is too long for a socket, so rowcast status \
                             cannot ask the process"
        );
        return Check::advice(FOLDER, found, "a shorter state_dir in [run]".to_owned());
    }
    Check::holds(FOLDER, found)
}

fn unwritable(folder: &Path, metadata: &Metadata, error: &str) -> Check {
    let ours = rustix::process::geteuid().as_raw();
    let (uid, shown) = (metadata.uid(), folder.display());
    let found = format!("{error}; it is of user {uid}, and this is user {ours}");
    let fix = match metadata.is_dir() {
        true => {
            format!("chown -R USER {shown}, of the user that runs rowcast; or run doctor as it")
        }
        false => "another state_dir in [run]: that is no folder".to_owned(),
    };
    Check::fails(FOLDER, found, fix)
}

fn free(bytes: u64) -> Check {
    let shown = Bytes(bytes);
    match bytes {
        ENOUGH_BYTES.. => Check::holds(SPACE, shown.to_string()),
        LEAST_BYTES.. => Check::advice(
            SPACE,
            format!("{shown} where the state is: what is refused for good may take 32 MB there"),
            "make room on that disk".to_owned(),
        ),
        _ => Check::fails(
            SPACE,
            format!("{shown} where the state is: without it nothing can be confirmed"),
            "make room on that disk".to_owned(),
        ),
    }
}

/// Garbage is left where it is: it is `run` that puts it aside.
fn state(path: &Path) -> Check {
    let shown = path.display();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = "none yet: at its first start rowcast tells all pages to fetch again";
            return Check::holds(STATE, found);
        }
        Err(error) => return Check::fails(STATE, format!("{shown}: {error}"), None),
    };
    let Ok(state) = serde_json::from_slice::<State>(&text) else {
        let found = format!(
            "{shown} is no state of rowcast: the next start puts it aside, and \
                             tells all pages to fetch again"
        );
        return Check::advice(STATE, found, None);
    };
    let owed: Vec<&str> = state.owed.rules().map(|rule| &**rule).collect();
    Check::holds(
        STATE,
        match &*owed {
            [] => format!("{shown}, no resync is owed"),
            owed => format!("{shown}, a resync is owed by {}", owed.join(", ")),
        },
    )
}

/// The part of a line that says when and why.
#[derive(Deserialize)]
struct Refused {
    at: String,
    reason: String,
}

fn rejected(path: &Path) -> Check {
    let shown = path.display();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::holds(REJECTED, "nothing");
        }
        Err(error) => return Check::fails(REJECTED, format!("{shown}: {error}"), None),
    };
    let mut last = None;
    let mut count = 0_u64;
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        if !line.is_empty() {
            count += 1;
            last = Some(line);
        }
    }
    let Some(last) = last else { return Check::holds(REJECTED, "nothing") };
    let last = serde_json::from_slice::<Refused>(&last).ok();
    let last = last.map(|it| format!(", the last of {}: {}", it.at, it.reason));
    Check::advice(
        REJECTED,
        format!("{count} notifications were refused for good{}", last.unwrap_or_default()),
        format!("once the cause is mended: rowcast replay --rejected {shown}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_and_what_was_refused_are_read_and_left_as_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state-shop.json");
        let told = |check: Check| format!("{check:?}");
        assert!(told(state(&path)).contains("none yet"));
        fs::write(&path, "{").expect("writes");
        assert!(told(state(&path)).contains("puts it aside"));
        assert_eq!(fs::read_to_string(&path).expect("is still there"), "{");
        let valid = r#"{"system":"7","timeline":1,"slot":"shop","position":"0/1","parts":[],
                        "owed":{"posts":"gap"}}"#;
        fs::write(&path, valid).expect("writes");
        assert!(told(state(&path)).contains("a resync is owed by posts"), "{}", told(state(&path)));

        let path = folder.path().join("rejected.jsonl");
        assert!(told(rejected(&path)).contains("nothing"));
        fs::write(
            &path,
            "{\"at\":\"2026\",\"reason\":\"413\"}\n{\"at\":\"2027\",\"reason\":\"422\"}\n",
        )
        .expect("writes");
        let refused = told(rejected(&path));
        assert!(refused.contains("2 notifications") && refused.contains("2027: 422"), "{refused}");
        assert!(refused.contains("Advice"), "{refused}");
    }

    #[test]
    fn a_folder_that_others_write_to_or_that_nobody_can_make_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mode = |mode| {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(folder.path(), permissions).expect("it is ours");
            let metadata = fs::metadata(folder.path()).expect("there");
            format!("{:?}", writable(folder.path(), &metadata, "shop"))
        };
        assert!(mode(0o700).contains("Holds"));
        assert!(mode(0o777).contains("chmod 700"));
        let metadata = fs::metadata(folder.path()).expect("there");
        let long = format!("{:?}", writable(folder.path(), &metadata, &"x".repeat(100)));
        assert!(long.contains("Advice"), "{long}");
        let there = format!("{:?}", missing(&folder.path().join("a/b")));
        assert!(there.contains("the first start makes it"), "{there}");
        let space = |bytes| format!("{:?}", free(bytes));
        assert!(space(1 << 30).contains("Holds") && space(50 << 20).contains("Advice"));
        assert!(space(4096).contains("Fails"));
    }
}
