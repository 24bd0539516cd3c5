//! What `rowcast doctor` says of the endpoint: of one that is well, and of breaks that are real.
//!
//! It is in `doctor_endpoint/*.txt`, without what differs from one run to the next. To write it anew:
//! `ROWCAST_BLESS=1 cargo test --test suite doctor_endpoint`.

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rowcast::deliver::pusher::Server;

use crate::harness::{
    endpoint::{Endpoint, Fault},
    rowcast::Rowcast,
    scratch,
    sockudo::Sockudo,
    wait::SOON,
};

/// Nobody is at the database's address: what is said of it is not looked at here.
const DATABASE: &str = "[database]\nurl = 'postgres://postgres@127.0.0.1:9/shop'\n";
const RULE: &str = "[run]\nstate_dir = 'state'\n[[rule]]\ntable = 'posts'\nchannels = 'posts'\n";

/// The lines about the endpoint, of a doctor with this `[pusher]`.
async fn said(pusher: &str, arguments: &[&str]) -> String {
    let rowcast = Rowcast::new(&format!("{DATABASE}[pusher]\n{pusher}{RULE}"));
    let arguments = [&["doctor"], arguments].concat();
    let doctor = rowcast.start_with(&arguments, &[("LC_ALL", "C.UTF-8")]);
    assert_eq!(doctor.exit_code(SOON).await, 1, "there is no database");
    let printed = doctor.stdout.all();
    let lines = printed.iter().skip_while(|line| &***line != "endpoint");
    let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).map(|line| &**line).collect();
    assert!(!lines.is_empty(), "{}", printed.join("\n"));
    lines.join("\n") + "\n"
}

/// Compares it with a file, for an endpoint at that port.
fn is_golden(name: &str, said: &str, port: u16) {
    let mut text = said.replace(&port.to_string(), "8080");
    for (before, after) in [(", in ", " ms"), ("clock is ", " s ")] {
        text = without_number(&text, before, after);
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/suite/doctor_endpoint/{name}.txt"));
    if env::var_os("ROWCAST_BLESS").is_some() {
        fs::write(&path, &text).expect("the folder is writable");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{name}: expected\n{golden}\nfound\n{text}");
}

fn without_number(text: &str, before: &str, after: &str) -> String {
    let mut parts = text.split(before);
    let mut found = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        found += before;
        found += if rest.len() < part.len() && rest.starts_with(after) { "N" } else { "" };
        found += if rest.starts_with(after) { rest } else { part };
    }
    found
}

fn sockudo(sockudo: &Sockudo) -> String {
    format!(
        "url = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n",
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
    )
}

#[tokio::test]
async fn a_real_server_that_is_well_or_knows_another_app() {
    let server = Sockudo::shared().await;
    let right = sockudo(server);
    is_golden("healthy", &said(&right, &["--push"]).await, server.port);
    for (name, from, to) in [
        ("wrong_secret", Sockudo::SECRET, "another-secret"),
        ("wrong_app_id", Sockudo::APP_ID, "another-app"),
        ("wrong_key", Sockudo::KEY, "another-key"),
        ("no_tls", "http:", "https:"),
    ] {
        is_golden(name, &said(&right.replace(from, to), &[]).await, server.port);
    }
    let prefixed = right.replace(&server.url(), &format!("{}/ws", server.url()));
    is_golden("needless_prefix", &said(&prefixed, &[]).await, server.port);
}

#[tokio::test]
async fn an_address_where_nobody_is() {
    let port = scratch::free_port();
    let pusher = |host: &str| {
        format!("url = 'http://{host}:{port}'\napp_id = '1'\nkey = 'k'\nsecret = 's'\n")
    };
    is_golden("unreachable", &said(&pusher("127.0.0.1"), &[]).await, port);
    // The resolver's words are not the same everywhere.
    let nowhere = said(&pusher("nowhere.invalid"), &[]).await;
    assert!(nowhere.contains("✗ address                nowhere.invalid has no address: "));
    assert!(nowhere.contains("getent hosts nowhere.invalid"), "{nowhere}");
}

#[tokio::test]
async fn what_answers_is_another_program_or_refuses_for_its_own_reasons() {
    let endpoint = Endpoint::start(Server::Any);
    let port = endpoint.address().port();
    let late = SystemTime::now() - Duration::from_secs(3600);
    let late = late.duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let late = jiff::Timestamp::from_second(i64::try_from(late).expect("a date")).expect("a date");
    let date = jiff::fmt::rfc2822::to_string(&late.to_zoned(jiff::tz::TimeZone::UTC));
    let moved = "https://ws.example/reverb/apps/1001/channels?auth_key=secret";
    for (name, fault) in [
        ("html_page", Fault::body(200, "<!doctype html><title>Log in</title>")),
        ("redirect", Fault::redirect(301, moved)),
        ("no_answer", Fault::Hang),
        (
            "clock_skew",
            Fault::Status {
                code: 401,
                body: String::new(),
                headers: vec![("Date", date.expect("a date"))],
            },
        ),
    ] {
        let is_waited_for = matches!(fault, Fault::Hang);
        endpoint.probe_fault(fault);
        let timeout = if is_waited_for { "timeout = '300ms'\n" } else { "" };
        let pusher = format!("{}{timeout}", endpoint.toml());
        is_golden(name, &said(&pusher, &[]).await, port);
    }
    endpoint.heal();
    let pushed = said(&endpoint.toml(), &["--push"]).await;
    let accepted = endpoint.accepted();
    let sizes: Vec<usize> = accepted.iter().map(|it| it.event.data.len()).collect();
    assert!(accepted.iter().all(|it| it.event.channel == "rowcast-doctor"), "{accepted:?}");
    assert!(sizes.len() == 2 && sizes[0] < 100 && sizes[1] > 8000, "{sizes:?}: {pushed}");
}

#[tokio::test]
async fn a_server_that_takes_less_than_the_configured_one() {
    let reverb = Endpoint::start(Server::Reverb);
    let pusher = reverb.toml().replace("'reverb'", "'soketi'");
    is_golden("other_server", &said(&pusher, &[]).await, reverb.address().port());
    let old = Endpoint::start(Server::LaravelWebsockets);
    let pusher = old.toml().replace("'laravel-websockets'", "'any'");
    is_golden("no_batches", &said(&pusher, &[]).await, old.address().port());
    let prefixed = Endpoint::start_with(Server::Soketi, "/ws", false);
    let pusher = prefixed.toml();
    is_golden("prefix_not_signed", &said(&pusher, &[]).await, prefixed.address().port());
}
