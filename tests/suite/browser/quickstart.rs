//! From nothing to a page that follows its row, by what README.md says and no more: its commands as they are typed, and
//! its lines of JavaScript as they stand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{
    browser::Browser,
    cluster::{Cluster, Version},
    database::Database,
    node,
    process::Process,
    psql, scratch,
    sockudo::Sockudo,
    wait::SOON,
};

/// More are too many.
const COMMANDS: usize = 5;
/// `cargo install` has been done, in a way.
const INSTALL: &str = "cargo install --locked --path .";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first block of that language behind the heading.
fn block(heading: &str, language: &str) -> String {
    let readme = fs::read_to_string(repository().join("README.md")).expect("it is there");
    let (_, section) = readme.split_once(&format!("\n{heading}\n")).expect("the heading is there");
    let (_, block) = section.split_once(&format!("```{language}\n")).expect("it has a block");
    block.split_once("```").expect("its end").0.to_owned()
}

/// A shell in which somebody types, with the rowcast of this build in its PATH.
fn shell(command: &str, folder: &Path) -> Process {
    let binaries: PathBuf = Path::new(env!("CARGO_BIN_EXE_rowcast")).parent().unwrap().into();
    let path = std::env::var("PATH").expect("there is one");
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &format!("exec {command}")])
        .env_clear()
        .env("PATH", format!("{}:{path}", binaries.display()))
        .env("HOME", folder);
    Process::spawn(&mut shell, folder)
}

#[tokio::test]
async fn five_commands_of_the_readme_bring_an_existing_databases_changes_into_a_browser() {
    let browser = Browser::start();
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    // The password that `init` invents must be right.
    cluster.set_hba("host all rowcast all scram-sha-256\nhost all all all trust\n").await;
    cluster.psql("postgres", "create role shop login").await;
    let database = Database::fresh(&cluster).await;
    database.psql(&format!("alter database {} owner to shop", database.name)).await;
    let schema = fs::read_to_string(repository().join("tests/systems/blog/schema.sql"));
    let schema = schema.expect("the system has it");
    let rows = "insert into users (name, email, password) values ('Ann', 'ann@localhost', '');
        insert into posts (user_id, title, slug, content) values (1, 'Before', 'post', '');";
    let shop = database.url().replace("postgres@", "shop@");
    psql::run(&shop, &format!("{schema}{rows}")).await;

    let sockudo = Sockudo::start().await;
    let folder = scratch::folder("quickstart");
    let application = folder.path().join("shop");
    fs::create_dir(&application).expect("the folder is writable");
    let env = format!(
        "DB_CONNECTION=pgsql\nDB_HOST=127.0.0.1\nDB_PORT={}\nDB_DATABASE={}\nDB_USERNAME=shop\nDB_PASSWORD=secret\n\
         BROADCAST_CONNECTION=reverb\nREVERB_APP_ID={}\nREVERB_APP_KEY={}\nREVERB_APP_SECRET={}\nREVERB_HOST=127.0.0.1\n\
         REVERB_PORT={}\nREVERB_SCHEME=http\n",
        cluster.port(),
        database.name,
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
        sockudo.port,
    );
    fs::write(application.join(".env"), env).expect("the folder is writable");

    let readme = block("## Quick start", "sh");
    let commands: Vec<&str> = readme.lines().collect();
    assert!(commands.len() <= COMMANDS, "{commands:#?}");
    let [INSTALL, init, role, setup, run] = commands[..] else { panic!("{commands:#?}") };
    let init = init.replace("/var/www/shop", &application.display().to_string());
    let init = shell(&init, folder.path());
    assert_eq!(init.exit_code(SOON).await, 0, "{:?}", init.stderr.all());
    // What follows `init` prints, with the address and the password.
    let printed = init.stdout.all();
    let printed: Vec<&str> = printed.iter().map(|line| line.trim()).collect();
    let (words, _) = role.split_once('…').expect("the password is not in the README");
    let (_, words) = words.split_once(" -c ").expect("it is psql's -c");
    let role = printed.iter().find(|line| line.contains(words));
    let role = role.unwrap_or_else(|| panic!("{words} is not in {printed:#?}"));
    assert!(printed.contains(&setup) && printed.contains(&run), "{printed:#?}");
    for command in [*role, setup] {
        let shell = shell(command, folder.path());
        assert_eq!(shell.exit_code(SOON).await, 0, "{command}: {:?}", shell.stderr.all());
    }
    let run = shell(run, folder.path());
    run.stderr.wait_for(SOON, "streaming changes").await;

    let mut app = sockudo.app();
    app["port"] = sockudo.port.into();
    let argument = json!({ "app": app, "database": database.url(), "users": {} });
    let site = node::start("browser/site.mjs", &argument);
    let port = |line: &str| serde_json::from_str::<Value>(line).ok()?["port"].as_u64();
    let port = site.stdout.find_after(0, SOON, "the site's port", port).await;
    let page = browser.open(&format!("http://127.0.0.1:{port}/quickstart.html?me=1")).await;
    let snippet = block("### Echo", "js");
    page.run(&format!("(() => {{ const id = 1; {snippet} }})()")).await;
    page.until("document.getElementById('title').textContent == 'Before'").await;
    // Raw SQL, of which Eloquent would know nothing.
    psql::run(&shop, "update posts set title = 'After'").await;
    page.until("document.getElementById('title').textContent == 'After'").await;

    run.sigterm();
    assert_eq!(run.exit_code(Duration::from_secs(15)).await, 0, "{:?}", run.stderr.all());
    assert_eq!(site.stderr.all(), Vec::<Arc<str>>::new());
}
