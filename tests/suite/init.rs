//! `rowcast init`: what it writes, and that what it prints may be typed as it stands.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rowcast::deliver::pusher::Server;
use tokio::{process::Command, time::timeout};

use crate::harness::{
    cluster::{Cluster, Version},
    database::Database,
    endpoint::{APP_ID, Endpoint, KEY, SECRET},
    psql,
    rowcast::Rowcast,
    wait::SOON,
};

/// A system of `tests/systems`, and for some of its tables what is written and where it is heard.
type System = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

const SYSTEMS: [System; 5] = [
    (
        "blog",
        &[
            (
                "insert into users (name, email, password) values ('a', 'a@b.c', 'x')",
                "private-App.Models.User.1",
                "UserCreated",
            ),
            (
                "insert into posts (user_id, title, slug, content) values (1, 't', 's', 'c')",
                "private-posts.1",
                "PostCreated",
            ),
            ("update posts set status = 'published'", "private-posts", "PostUpdated"),
        ],
    ),
    (
        "admin-panel",
        &[
            (
                "insert into customers (first_name, last_name) values ('a', 'b')",
                "private-customers",
                "CustomerCreated",
            ),
            (
                "insert into invoices (customer_id, total) values (1, 9)",
                "private-invoices.1",
                "InvoiceCreated",
            ),
        ],
    ),
    (
        "event-sourced",
        &[
            (
                "insert into conversations (id) values ('11111111-2222-3333-4444-555555555555')",
                "private-conversations.11111111-2222-3333-4444-555555555555",
                "ConversationCreated",
            ),
            (
                "insert into todos (team_id, title) values (1, 't')",
                "private-todos.1",
                "TodoCreated",
            ),
        ],
    ),
    (
        "pos",
        &[
            ("insert into orders (number) values ('1')", "private-orders.1", "OrderCreated"),
            ("update orders set deleted_at = now()", "private-orders.1", "OrderDeleted"),
        ],
    ),
    (
        "provisioning",
        &[
            (
                "insert into servers (user_id, vanity_name) values (7, 'a')",
                "private-App.Models.User.7",
                "ServerCreated",
            ),
            ("delete from servers", "private-App.Models.User.7", "ServerDeleted"),
        ],
    ),
];

/// A Laravel application: its folder with a `.env`, and its database, which its own role made.
struct Application {
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
}

impl Application {
    async fn new(cluster: &Arc<Cluster>, schema: &str) -> Self {
        let database = Database::fresh(cluster).await;
        let endpoint = Endpoint::start(Server::Reverb);
        let name = &database.name;
        database.psql(&format!("alter database {name} owner to shop")).await;
        psql::run(&database.url().replace("postgres@", "shop@"), schema).await;
        let rowcast = Rowcast::without_config();
        let env = format!(
            "DB_CONNECTION=pgsql\nDB_HOST=127.0.0.1\nDB_PORT={}\nDB_DATABASE={name}\nDB_USERNAME=shop\n\
             DB_PASSWORD=\"not asked for\"\nBROADCAST_CONNECTION=reverb\nREVERB_APP_ID={APP_ID}\n\
             REVERB_APP_KEY={KEY}\nREVERB_APP_SECRET={SECRET}\nREVERB_HOST=127.0.0.1\n\
             REVERB_PORT={}\nREVERB_SCHEME=http\n",
            cluster.port(),
            endpoint.address().port(),
        );
        fs::create_dir(rowcast.folder().join("app")).expect("the folder is writable");
        fs::write(rowcast.folder().join("app/.env"), env).expect("the folder is writable");
        Self { database, endpoint, rowcast }
    }

    /// Runs `init`, and returns the commands that it prints.
    async fn init(&self, arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<&str> =
            ["init", "--laravel", "app"].iter().chain(arguments).copied().collect();
        let init = self.rowcast.start(&arguments);
        assert_eq!(init.exit_code(SOON).await, 0, "{:?}", init.stderr.all());
        let lines = init.stdout.all();
        let commands = lines.iter().skip_while(|line| &***line != "Next:").skip(1);
        commands.take_while(|line| !line.is_empty()).map(|line| line.trim().to_owned()).collect()
    }

    /// Types them, but for the last, which is `run`.
    async fn type_all(&self, commands: &[String]) {
        let (run, commands) = commands.split_last().expect("there are commands");
        assert_eq!(run, "rowcast run");
        for command in commands {
            let binary = Path::new(env!("CARGO_BIN_EXE_rowcast"));
            let folder = binary.parent().expect("it is in a folder").display().to_string();
            let path = std::env::var("PATH").expect("there is one");
            let shell = Command::new("bash")
                .args(["-c", command])
                .env_clear()
                .env("PATH", format!("{folder}:{path}"))
                .env("HOME", self.rowcast.folder())
                .current_dir(self.rowcast.folder())
                .kill_on_drop(true)
                .output();
            let output = timeout(SOON, shell).await.expect("it ends").expect("bash is there");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command}: {said}");
        }
    }

    fn config(&self) -> String {
        fs::read_to_string(self.path()).expect("init wrote it")
    }

    fn path(&self) -> PathBuf {
        self.rowcast.folder().join("rowcast.toml")
    }

    async fn runs_and_notifies(&self, system: &System) {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        for (sql, channel, event) in system.1 {
            self.database.psql(sql).await;
            let what = format!("{event} on {channel}");
            let is_it = |event_: &str, channel_: &str| (event_, channel_) == (*event, *channel);
            self.endpoint
                .wait_for(&what, |accepted| {
                    accepted.iter().any(|it| is_it(&it.event.name, &it.event.channel))
                })
                .await;
        }
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        self.endpoint.assert_strict();
    }
}

fn schema(system: &System) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systems");
    fs::read_to_string(folder.join(system.0).join("schema.sql")).expect("the system has it")
}

/// The first makes rowcast's role and types the printed commands; for the others the role is there already, and the
/// slot's name is taken.
#[tokio::test]
async fn what_init_writes_of_each_system_is_set_up_and_notifies() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    // The password of the role that init invents must be right.
    cluster.set_hba("host all rowcast all scram-sha-256\nhost all all all trust\n").await;
    cluster.psql("postgres", "create role shop login").await;
    let mut password: Option<String> = None;
    // With its database each slot would go.
    let mut kept = Vec::new();
    for system in &SYSTEMS {
        let mut application = Application::new(&cluster, &schema(system)).await;
        if let Some(password) = &password {
            application.rowcast = application.rowcast.env("ROWCAST_DB_PASSWORD", password);
        }
        let commands = application.init(&[]).await;
        let config = application.config();
        match &password {
            None => {
                assert!(commands[0].starts_with("psql postgres://postgres@"), "{commands:?}");
                let mode = fs::metadata(application.path()).expect("it is there").permissions();
                assert_eq!(mode.mode() & 0o777, 0o600, "it holds a password");
                application.type_all(&commands).await;
                let (_, rest) = config.split_once("password = \"").expect("it holds it");
                password = rest.split('"').next().map(str::to_owned);
            }
            Some(_) => {
                assert_eq!(commands, ["rowcast setup --laravel", "rowcast run"]);
                assert!(config.contains("password = \"${ROWCAST_DB_PASSWORD}\""), "{config}");
                let slot = format!("slot = \"rowcast_{}\"", application.database.name);
                assert!(config.contains(&slot), "{config}");
                let setup = application.rowcast.start(&["setup", "--laravel"]);
                assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
            }
        }
        application.runs_and_notifies(system).await;
        kept.push(application);
    }
}

#[tokio::test]
async fn without_logical_replication_init_writes_triggers_and_every_kind_of_table_has_its_words() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[("wal_level", "replica")]).await);
    cluster.psql("postgres", "create role shop login").await;

    let blog = &SYSTEMS[0];
    let application = Application::new(&cluster, &schema(blog)).await;
    let commands = application.init(&[]).await;
    assert_eq!(commands, ["rowcast setup", "rowcast run"]);
    let config = application.config();
    assert!(
        config.contains("# There is no logical replication here: wal_level is replica"),
        "{config}"
    );
    assert!(config.contains("\ncapture = \"triggers\"\n"), "{config}");
    assert!(config.contains("channels = [\"private-App.Models.User.{{ user_id }}\"]"), "{config}");
    application.type_all(&commands).await;
    application.runs_and_notifies(blog).await;

    let everything = include_str!("init/everything.sql");
    let application = Application::new(&cluster, everything).await;
    application.init(&["--capture", "wal"]).await;
    let written = application
        .config()
        .replace(&application.database.name, "DATABASE")
        .replace(&cluster.port().to_string(), "PORT")
        .replace(&application.rowcast.folder().display().to_string(), "FOLDER");
    let lines: Vec<&str> = written
        .lines()
        .map(|line| if line.starts_with("password = ") { "password = \"PASSWORD\"" } else { line })
        .collect();
    let written = lines.join("\n") + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/init/everything.toml");
    if std::env::var_os("ROWCAST_BLESS").is_some() {
        fs::write(&golden, &written).expect("the package can be written");
    }
    assert_eq!(written, fs::read_to_string(&golden).unwrap_or_default());
}

#[tokio::test]
async fn init_never_overwrites_unless_told_to() {
    let database = Database::on(Version::DEFAULT).await;
    database.psql("create table posts (id int primary key)").await;
    let rowcast = Rowcast::new("# mine\n");
    let path = rowcast.folder().join("rowcast.toml");
    let url = database.url();
    let init = rowcast.start(&["init", "--url", &url]);
    assert_eq!(init.exit_code(SOON).await, 1);
    assert!(
        init.stderr.all()[0].contains("rowcast.toml is there already"),
        "{:?}",
        init.stderr.all()
    );
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "# mine\n");

    let init = rowcast.start(&["init", "--url", &url, "--force", "--table", "po*"]);
    assert_eq!(init.exit_code(SOON).await, 0, "{:?}", init.stderr.all());
    let written = fs::read_to_string(&path).expect("it is there");
    assert!(written.contains("table = \"posts\"\npreset = \"resource\"\n"), "{written}");

    let init = rowcast.start(&["init", "--url", &url, "--force", "--table", "pots"]);
    assert_eq!(init.exit_code(SOON).await, 1);
    assert!(init.stderr.all()[0].contains("nothing was written"), "{:?}", init.stderr.all());
    assert_eq!(fs::read_to_string(&path).expect("it is there"), written);
}

#[tokio::test]
async fn an_application_on_another_database_is_told_so_with_exit_code_78() {
    let rowcast = Rowcast::without_config();
    fs::write(rowcast.folder().join(".env"), "APP_NAME=Shop\nDB_CONNECTION=mysql\n")
        .expect("the folder is writable");
    let init = rowcast.start(&["init"]);
    assert_eq!(init.exit_code(SOON).await, 78);
    let said = init.stderr.all().join("\n");
    assert!(said.contains("DB_CONNECTION is \"mysql\", and rowcast reads Postgres only"), "{said}");
    assert!(said.contains(".env:2:1"), "{said}");
    assert!(!rowcast.folder().join("rowcast.toml").exists());
}
