//! Running the programs of Postgres, which refuse to be run by root.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{cluster::Version, scratch};

/// The folder that all clusters of this version are copied from.
pub fn template(version: Version) -> &'static Path {
    static TEMPLATES: [OnceLock<PathBuf>; 5] = [const { OnceLock::new() }; 5];
    TEMPLATES[version as usize].get_or_init(|| initdb(version))
}

/// A cluster that is no copy of another: the folder of its data, removed after the tests.
pub fn initdb(version: Version) -> PathBuf {
    let folder = scratch::folder(&format!("initdb{}", version.major())).keep();
    give_to_server(&folder);
    let data = folder.join("template");
    let output = as_server(version.bin().join("initdb"))
        .arg("--pgdata")
        .arg(&data)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .current_dir(&folder)
        .output()
        .expect("initdb can be executed");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    data
}

/// The user that servers run as where the tests are root, which Postgres refuses.
fn server_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    fn id(option: &str, user: &str) -> Option<u32> {
        let output = Command::new("id").args([option, user]).output().expect("id is there");
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }
    *USER.get_or_init(|| {
        rustix::process::geteuid().is_root().then(|| {
            let user = ["postgres", "nobody"]
                .into_iter()
                .find_map(|user| id("-u", user).zip(id("-g", user)));
            user.expect("there is a user postgres or nobody")
        })
    })
}

pub fn as_server(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

pub fn give_to_server(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may");
    }
}
