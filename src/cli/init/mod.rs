//! `rowcast init`: a first configuration, from the live schema.

mod draft;
mod login;
mod next;
mod origin;
mod table;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::{Global, terminal};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{self, Capture, Dsn, PublicationName, SlotName, WrittenDsn};
use crate::route::TablePattern;

use draft::Draft;
use login::Login;
use next::Next;
use origin::Origin;
use table::Judged;

/// Writes a first configuration from the live schema
///
/// A rule for each table of the database that has a key, with the Laravel and Echo
/// lines that listen to it. The commands that follow are printed.
///
/// It reads the catalog and changes nothing. Rules tell private channels which row
/// changed, never what is in it. Laravel's own tables are left out; tables without a
/// key, and those that only join others, are explained.
///
/// The database is that of --url, else of the application's .env (--laravel, or the
/// current folder if that is one), else of the PG* variables, as for psql.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast init --laravel /var/www/shop
  rowcast init --url postgres://shop@127.0.0.1/shop --table posts --table 'order*'
  rowcast -c /etc/rowcast/shop.toml init --laravel /var/www/shop")]
pub(super) struct Args {
    /// The database; any role that may log in will do
    #[arg(long, value_name = "DSN")]
    url: Option<WrittenDsn>,
    /// The folder of a Laravel application, whose .env names the database and the
    /// Pusher-compatible server; the configuration then refers to it
    #[arg(long, value_name = "PATH")]
    laravel: Option<PathBuf>,
    /// Only for these tables: a name, schema.name, or with * for any text
    #[arg(long, value_name = "TABLE")]
    table: Vec<TablePattern>,
    /// How changes are learned of [default: wal where the server allows it]
    #[arg(long)]
    capture: Option<CaptureArg>,
    /// Overwrite a configuration that is there already
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CaptureArg {
    /// Logical replication
    Wal,
    /// Triggers, where there is no logical replication
    Triggers,
}

/// What the session is called in `pg_stat_activity`.
const SESSION_NAME: &str = "rowcast init";
const USUAL_PATH: &str = "rowcast.toml";
/// Secrets are in it, or not.
const OWNER_ONLY: u32 = 0o600;
const OF_GROUP: u32 = 0o640;
const READABLE: u32 = 0o644;

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let path = global.config.clone().unwrap_or_else(|| USUAL_PATH.into());
    if path.exists() && !args.force {
        bail!(
            "{path} is there already and stays as it is; --force overwrites it, and -c FILE writes \
             another",
            path = path.display()
        );
    }
    let env = |name: &str| std::env::var(name).ok();
    let origin = Origin::find(args.url.as_ref(), args.laravel.as_deref(), &env)?;
    let session = postgres::connect(&Dsn::try_from(&origin.dsn)?, SESSION_NAME)
        .await
        .with_context(|| format!("cannot look at the database of {}", origin.found_in))?;
    let client = &session.client;

    let slot: SlotName = "rowcast".parse().expect("it is a slot's name");
    let publication: PublicationName = "rowcast".parse().expect("it is a publication's name");
    let snapshot = Snapshot::gather(client, &slot, &publication).await?;
    let capture = match args.capture {
        Some(CaptureArg::Wal) => Capture::Wal,
        Some(CaptureArg::Triggers) => Capture::Triggers,
        None if draft::why_no_wal(&snapshot).is_some() => Capture::Triggers,
        None => Capture::Wal,
    };
    let login = Login::find(client, &snapshot.server, capture).await?;
    let of_extensions = table::of_extensions(client).await?;
    let mut judged: Vec<Judged<'_>> = snapshot
        .tables
        .iter()
        .filter(|table| !of_extensions.contains(&table.relation.oid))
        .filter(|table| {
            args.table.is_empty()
                || args.table.iter().any(|pattern| pattern.matches(&table.relation.table))
        })
        .filter_map(|table| Judged::of(table, &snapshot.tables, capture))
        .collect();
    Judged::leave_out_namesakes(&mut judged);
    if judged.is_empty() {
        bail!("{}", next::no_tables(&snapshot.server.database, !args.table.is_empty()));
    }

    let draft = Draft { origin: &origin, snapshot: &snapshot, capture, login: &login };
    let written = draft.write(&judged)?;
    save(&path, &written.text, written.has_secret, args.force)?;
    let by_owner = login::may_set_up(client, &judged).await?;
    let next = Next {
        path: &path,
        is_usual_path: global.config.is_none(),
        origin: &origin,
        server: &snapshot.server,
        capture,
        login: &login,
        by_owner,
    };
    Ok(terminal::print(format!("{}\n", next.text(&written)).as_bytes())?)
}

/// All of it or nothing, and never over another file unless `force`.
fn save(path: &Path, text: &str, has_secret: bool, force: bool) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mode = if has_secret { OWNER_ONLY } else { READABLE };
    let write = || -> std::io::Result<()> {
        let permissions = Permissions::from_mode(mode);
        let mut file = tempfile::Builder::new()
            .prefix(".rowcast")
            .permissions(permissions)
            .tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        // In /etc/rowcast the group is that of the service, which must read it.
        let group = std::fs::metadata(folder)?.gid();
        if group != rustix::process::getegid().as_raw() {
            chown(file.path(), None, Some(group))?;
            file.as_file().set_permissions(Permissions::from_mode(OF_GROUP))?;
        }
        file.as_file().sync_all()?;
        match force {
            true => file.persist(path)?,
            false => file.persist_noclobber(path)?,
        };
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
