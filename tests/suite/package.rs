//! The Debian package, installed into a root folder of Debian's smallest kind and removed from it; and the alert
//! rules that it brings.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{
    cache, capture::Capture, cluster::Version, database::Database, process::Process,
    rowcast::Rowcast, scratch,
};

/// For packing, unpacking and copying on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Its output, both streams, if it does not fail.
async fn run(command: &mut Command, folder: &Path) -> String {
    let process = Process::spawn(command, folder);
    let code = process.exit_code(PATIENCE).await;
    let said = [process.stdout.all(), process.stderr.all()].concat().join("\n");
    assert_eq!(code, 0, "{command:?}: {said}");
    said
}

/// The package, of the binary that the tests run.
async fn build() -> PathBuf {
    let folder = scratch::folder("build");
    let binary = Path::new(env!("CARGO_BIN_EXE_rowcast"));
    let profile = match binary.parent().and_then(Path::file_name) {
        Some(name) if name == "debug" => "dev",
        _ => "release",
    };
    let with_cargo_deb = env::join_paths(
        [cache().join("cargo-deb-3.8.0/bin")]
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb/build");
    let mut build = Command::new(script);
    build.arg(profile).env("PATH", with_cargo_deb.expect("folders have no colon"));
    let said = run(&mut build, folder.path()).await;
    let package = said.lines().find(|line| line.ends_with(".deb"));
    PathBuf::from(package.unwrap_or_else(|| panic!("it prints the path: {said}")))
}

/// A Debian on which nothing is installed but what every Debian has.
struct Root {
    folder: TempDir,
}

impl Root {
    async fn new() -> Root {
        let debian = cache().join("debian");
        assert!(debian.exists(), "{} is missing: run tests/setup as root", debian.display());
        let folder = scratch::folder("root");
        let copy = format!("cp -a {}/. .", debian.display());
        run(Command::new("sh").args(["-c", &copy]), folder.path()).await;
        Root { folder }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    fn write(&self, inside: &str, text: &str, mode: u32) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("root may");
        fs::write(&path, text).expect("root may");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    }

    /// Runs a line of shell in it.
    async fn sh(&self, line: &str) -> String {
        let mut chroot = Command::new("chroot");
        chroot
            .arg(self.folder.path())
            .args(["sh", "-c", line])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut chroot, self.folder.path()).await
    }

    /// What systemd was asked for since the last call.
    fn asked_of_systemd(&self) -> Vec<String> {
        let log = self.path("systemctl.log");
        let asked = fs::read_to_string(&log).unwrap_or_default();
        // It is not there if nothing was asked.
        let _ = fs::remove_file(log);
        asked.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn the_package_installs_upgrades_and_removes_and_names_what_stays_in_databases() {
    let (package, root) = tokio::join!(build(), Root::new());
    fs::copy(package, root.path("rowcast.deb")).expect("it is there");

    // Without systemd, as in an image of Docker.
    root.sh("dpkg --force-unsafe-io -i rowcast.deb").await;
    assert_eq!(
        root.sh("dpkg --audit; dpkg-query -Wf '${Status}' rowcast").await,
        "install ok installed"
    );
    let version = concat!("rowcast ", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        root.sh("setpriv --reuid=rowcast --regid=rowcast --clear-groups rowcast --version").await,
        version
    );
    assert_eq!(root.sh("stat -c '%A %U %G' /etc/rowcast").await, "drwxr-x--- root rowcast");
    let installed = root.sh("dpkg -L rowcast").await;
    for file in [
        "/usr/lib/systemd/system/rowcast@.service",
        "/usr/share/bash-completion/completions/rowcast",
        "/usr/share/doc/rowcast/config.example.toml",
        "/usr/share/doc/rowcast/copyright",
        "/usr/share/fish/vendor_completions.d/rowcast.fish",
        "/usr/share/man/man1/rowcast-run.1.gz",
        "/usr/share/man/man1/rowcast.1.gz",
        "/usr/share/rowcast/alerts.yml",
        "/usr/share/rowcast/sql/role.sql",
        "/usr/share/zsh/vendor-completions/_rowcast",
    ] {
        assert!(installed.lines().any(|line| line == file), "{file} in {installed}");
        root.sh(&format!("test -s {file}")).await;
    }

    // Two databases are set up, one for each capture.
    let mut databases = Vec::new();
    for (capture, name) in [(Capture::Wal, "shop"), (Capture::Triggers, "blog")] {
        let database = Database::on(Version::DEFAULT).await;
        database.psql("create table posts (id int primary key)").await;
        let config = format!(
            "# slot = 'none of this'\n{}[pusher]\nurl = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n\
             [[rule]]\ntable = 'posts'\nchannels = ['posts']\n",
            database.toml_over(capture).await
        );
        database.set_up(&Rowcast::new(&config), capture).await;
        root.write(&format!("etc/rowcast/{name}.toml"), &config, 0o640);
        databases.push((database, name, config));
    }

    root.write("usr/local/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/systemctl.log\n", 0o755);
    fs::create_dir_all(root.path("run/systemd/system")).expect("root may");
    root.sh("dpkg --force-unsafe-io -i rowcast.deb").await;
    assert_eq!(root.asked_of_systemd(), ["daemon-reload", "try-restart rowcast@*.service"]);
    assert_eq!(root.sh("cat /etc/rowcast/shop.toml").await, databases[0].2.trim_end());

    let removal = root.sh("dpkg --remove rowcast").await;
    assert_eq!(root.asked_of_systemd(), ["stop rowcast@*.service", "daemon-reload"]);
    assert_eq!(
        root.sh("ls /usr/bin/rowcast /etc/rowcast 2>/dev/null || true").await,
        "/etc/rowcast:\nblog.toml\nshop.toml"
    );
    assert!(removal.contains(&databases[0].0.slot()), "{removal}");
    for (database, name, _) in &databases {
        // What it says of each is enough to take all of it back.
        let (_, rest) =
            removal.split_once(&format!("/etc/rowcast/{name}.toml: ")).expect("it names it");
        let sql: Vec<&str> =
            rest.lines().skip(1).map_while(|line| line.strip_prefix("    ")).collect();
        database.psql(&sql.join("\n")).await;
        let left = "select count(*) from pg_replication_slots where database = current_database();
                    select count(*) from pg_publication;
                    select count(*) from pg_trigger where not tgisinternal;";
        assert_eq!(database.psql(left).await, "0\n0\n0", "{name}: {removal}");
        database.psql("insert into posts values (1)").await;
    }

    root.sh("mkdir -p /var/lib/rowcast/shop && dpkg --purge rowcast").await;
    let left = "find / -xdev -name '*rowcast*' -not -path '/rowcast.deb' -not -path '/proc/*'";
    assert_eq!(root.sh(left).await, "");
}

const ALERTS: &str = include_str!("../../packaging/alerts.yml");
const PLAYED: &str = include_str!("package/alerts.yml");

fn names_after<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(before)
        .map(|(at, _)| &text[at + before.len()..])
        .map(|rest| &rest[..rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())])
        .collect()
}

/// What alerts look at, without `rowcast_`.
pub(super) fn metrics_of_alerts() -> BTreeSet<&'static str> {
    names_after(ALERTS, "rowcast_")
}

#[tokio::test]
async fn each_alert_fires_at_what_it_is_for_and_none_while_all_is_well() {
    let folder = scratch::folder("alerts");
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promtool = cache().join("promtool");
    assert!(promtool.exists(), "{} is missing: run tests/setup", promtool.display());
    let check = package.join("packaging/alerts.yml");
    run(Command::new(&promtool).args(["check", "rules"]).arg(check), folder.path()).await;
    let play = package.join("tests/suite/package/alerts.yml");
    run(Command::new(&promtool).args(["test", "rules"]).arg(play), folder.path()).await;
    let alerts = names_after(ALERTS, "- alert: ");
    assert!(!alerts.is_empty());
    assert_eq!(names_after(PLAYED, "alertname=\""), alerts);
}
