use std::path::Path;

use postgres_protocol::password::scram_sha_256;

use super::draft::Written;
use super::login::{Login, ROLE};
use super::origin::{From, Origin, Pusher};
use crate::cli::shell;
use crate::postgres::server::{Hosting, Server};
use crate::postgres::{Capture, WrittenDsn};

/// What has to be typed after `init`.
pub(super) struct Next<'a> {
    pub(super) path: &'a Path,
    pub(super) is_usual_path: bool,
    pub(super) origin: &'a Origin,
    pub(super) server: &'a Server,
    pub(super) capture: Capture,
    pub(super) login: &'a Login,
    /// Whether the role that `init` logged in as may run `setup`.
    pub(super) by_owner: bool,
}

pub(super) fn no_tables(database: &str, were_named: bool) -> String {
    match were_named {
        true => format!("no table of the database {database} is named so: nothing was written"),
        false => format!(
            "the database {database} has no tables yet: nothing was written; run init again after \
             its migrations"
        ),
    }
}

impl Next<'_> {
    pub(super) fn text(&self, written: &Written) -> String {
        let path = self.path.display();
        let how = match self.capture {
            Capture::Wal => "by logical replication",
            Capture::Triggers => "by triggers",
        };
        let (with_rules, tables) = (written.tables_with_rules, written.tables);
        let why_not = match with_rules < tables {
            true => " Why not for the others stands at its end.",
            false => "",
        };
        let database = &self.server.database;
        let mut lines = vec![
            format!(
                "{path}: rules for {with_rules} of {tables} tables of {database}, {how}.{why_not}"
            ),
            String::new(),
            "Next:".to_owned(),
        ];
        lines.extend(self.commands().into_iter().map(|command| format!("  {command}")));
        lines.push(String::new());
        lines.push(
            "Pages may listen once the Broadcast::channel lines of their rules are in \
             routes/channels.php."
                .to_owned(),
        );
        lines.join("\n")
    }

    fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        match self.login {
            Login::Same => {}
            Login::Existing => {
                let was_set = std::env::var_os("ROWCAST_DB_PASSWORD").is_some();
                if !was_set {
                    commands.push(format!(
                        "export ROWCAST_DB_PASSWORD=…   # of the role {ROLE}, which is there already"
                    ));
                }
            }
            Login::New(password) => {
                let sql = self.make_role(password.expose());
                commands.push(format!("{} -c \"{}\"", self.psql(), sql.replace('$', "\\$")));
            }
        }
        if !matches!(self.origin.pusher, Pusher::Application) {
            let names = ["REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET"];
            let unset: Vec<String> = names
                .iter()
                .filter(|name| std::env::var_os(name).is_none())
                .map(|name| format!("{name}=…"))
                .collect();
            if !unset.is_empty() {
                commands.push(format!("export {}   # as your server has them", unset.join(" ")));
            }
        }
        let config = match self.is_usual_path {
            true => String::new(),
            false => format!(" -c {}", shell::word(&self.path.display().to_string())),
        };
        commands.push(format!("rowcast{config} setup{}", self.owner()));
        commands.push(format!("rowcast{config} run"));
        commands
    }

    /// Who owns the tables, if not the role that rowcast runs as.
    fn owner(&self) -> String {
        match (self.by_owner, self.login, self.origin.database_from) {
            (true, Login::Same, _) => String::new(),
            (true, _, From::Application) => " --laravel".to_owned(),
            (true, _, _) => {
                format!(" --url {}", shell::word(&without_password(&self.origin.dsn).to_string()))
            }
            (false, _, _) => format!(" --url {}", shell::word(&self.superuser().to_string())),
        }
    }

    /// Without the password where the server keeps only its SCRAM verifier anyway:
    /// what is typed stays in histories and logs.
    fn make_role(&self, password: &str) -> String {
        let verifier = || scram_sha_256(password.as_bytes());
        match self.server.hosting {
            Hosting::Own => {
                format!("CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{}'", verifier())
            }
            Hosting::Rds => format!(
                "CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'; GRANT rds_replication TO {ROLE}"
            ),
            Hosting::Azure | Hosting::CloudSql | Hosting::Neon => {
                format!("CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{password}'")
            }
        }
    }

    /// As a superuser. On Debian and its like that is one over the local socket
    /// only, and for the user postgres of the system.
    fn psql(&self) -> String {
        let port = self.origin.dsn.get("port").unwrap_or("5432");
        let is_local = match self.origin.dsn.get("host").unwrap_or_default() {
            "127.0.0.1" | "localhost" | "::1" | "" => true,
            host => host.starts_with("/var/run/postgresql"),
        };
        let socket = format!("/var/run/postgresql/.s.PGSQL.{port}");
        if is_local && Path::new(&socket).exists() {
            let database = shell::word(&self.server.database);
            return match port {
                "5432" => format!("sudo -u postgres psql -d {database}"),
                port => format!("sudo -u postgres psql -p {port} -d {database}"),
            };
        }
        format!("psql {}", shell::word(&self.superuser().to_string()))
    }

    fn superuser(&self) -> WrittenDsn {
        let mut dsn = without_password(&self.origin.dsn);
        dsn.set("user", "postgres");
        dsn
    }
}

fn without_password(dsn: &WrittenDsn) -> WrittenDsn {
    let mut dsn = dsn.clone();
    dsn.remove("password");
    dsn
}
