//! Channels of which each class has a way of its own: encrypted and presence channels, to real pusher-js and Echo.

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};

use crate::harness::{
    capture::{Capture, over_both},
    client::{EchoChannel, Heard, Listener},
    cluster::Version,
    database::Database,
    endpoint::Endpoint,
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::SOON,
};

const POSTS: &str = "create table posts (id int primary key, title text);
                     insert into posts values (1, 'old')";

fn sockudo_toml(sockudo: &Sockudo) -> String {
    let Sockudo { port, .. } = sockudo;
    format!(
        "[pusher]\nurl = 'http://127.0.0.1:{port}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n\
         encryption_key = 'base64:{}'\n",
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
        Sockudo::ENCRYPTION_KEY,
    )
}

/// Set up, and streaming.
async fn run(database: &Database, pusher: &str, rules: &str) -> (Rowcast, Process) {
    run_over(Capture::Wal, database, pusher, rules).await
}

async fn run_over(
    capture: Capture,
    database: &Database,
    pusher: &str,
    rules: &str,
) -> (Rowcast, Process) {
    database.psql(POSTS).await;
    let config = format!(
        "{}{pusher}[limits]\nresync_spread = '0s'\n[run]\nstate_dir = 'state'\n{rules}",
        database.toml_over(capture).await
    );
    let rowcast = Rowcast::new(&config);
    database.set_up(&rowcast, capture).await;
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    (rowcast, run)
}

#[tokio::test]
async fn pusher_js_and_echo_read_what_was_encrypted_and_resyncs_too() {
    over_both(async |capture| pages_read_what_was_encrypted(capture).await).await;
}

async fn pages_read_what_was_encrypted(capture: Capture) {
    let database = Database::on(Version::V15).await;
    let sockudo = Sockudo::shared().await;
    let name = &database.name;
    let one = format!("private-encrypted-{name}.2");
    let list = format!("private-encrypted-{name}");
    let plain = format!("private-{name}");
    let pusher_js = Listener::join(sockudo, &[&one, &list, &plain]).await;
    let echo = Listener::join(sockudo, &[]).await;
    echo.listen_by_echo(EchoChannel::EncryptedPrivate, &format!("{name}.2"), ".PostChanged").await;
    let rules = format!(
        "[[rule]]\ntable = 'posts'\nchannels = ['private-encrypted-{name}.{{{{ id }}}}', '{list}', '{plain}']\n\
         event = 'PostChanged'\ndata = {{ action = '{{{{ action }}}}', title = '{{{{ title }}}}' }}\n\
         resync = {{ event = 'PostChanged', data = {{ action = 'resync', why = '{{{{ reason }}}}' }} }}\n"
    );
    let (rowcast, _run) = run_over(capture, &database, &sockudo_toml(sockudo), &rules).await;

    let hears = async |data: &Value| {
        for channel in [&one, &list, &plain] {
            let is_told = |heard: &Heard| heard.channel == *channel && heard.data == *data;
            let heard = pusher_js.wait_for(SOON, &format!("{data} on {channel}"), is_told).await;
            assert_eq!(heard.event, "PostChanged");
        }
        echo.wait_for(SOON, &format!("Echo hears {data}"), |heard| heard.data == *data).await;
    };
    database.psql("insert into posts values (2, 'new')").await;
    hears(&json!({ "action": "created", "title": "new" })).await;
    database.psql("update posts set title = 'Crème ☕' where id = 2").await;
    hears(&json!({ "action": "updated", "title": "Crème ☕" })).await;
    database.psql("truncate posts").await;
    hears(&json!({ "action": "resync", "why": "truncate" })).await;

    let by_hand = json!({ "by": "hand" });
    let send = rowcast.start(&["send", &one, "PostChanged", &by_hand.to_string()]);
    assert_eq!(send.exit_code(SOON).await, 0, "{:?}", send.stderr.all());
    pusher_js.wait_for(SOON, "what was sent by hand", |heard| heard.data == by_hand).await;
    echo.wait_for(SOON, "what was sent by hand", |heard| heard.data == by_hand).await;
}

#[tokio::test]
async fn an_endpoint_sees_no_payload_of_an_encrypted_channel_and_tail_does() {
    let database = Database::on(Version::V15).await;
    let endpoint = Endpoint::start(Server::Any);
    endpoint.occupy(["private-encrypted-posts.1"]);
    let pusher =
        format!("[pusher]\n{}encryption_key = '{}'\n", endpoint.toml(), Sockudo::ENCRYPTION_KEY);
    let rules = "[[rule]]\ntable = 'posts'\nchannels = ['private-encrypted-posts.{{ id }}', 'private-encrypted-posts']\n\
                 data = { title = '{{ title }}' }\n";
    let (rowcast, run) = run(&database, &pusher, rules).await;
    let tail = rowcast.start(&["tail", "--json", "-v"]);
    tail.stderr.wait_for(SOON, "streaming changes").await;
    database
        .psql("update posts set title = 'a secret'; insert into posts select i, 'a secret' from generate_series(2, 40) i")
        .await;
    endpoint.wait_for("all is told", |accepted| accepted.len() >= 80).await;
    for accepted in endpoint.accepted() {
        assert!(!accepted.event.data.contains("secret"), "{:?}", accepted.event);
    }
    // A strict one refuses plain text there, and an encrypted channel beside others.
    endpoint.assert_strict();
    tail.stdout.wait_for(SOON, r#"{"title":"a secret"}"#).await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    for line in run.stderr.all() {
        assert!(!line.contains(Sockudo::ENCRYPTION_KEY), "{line}");
    }
}

#[tokio::test]
async fn an_encrypted_channel_without_a_key_is_refused_before_anything_is_sent() {
    let endpoint = Endpoint::start(Server::Any);
    let channels = "channels = ['posts', 'private-encrypted-posts']";
    let rowcast = Rowcast::new(&format!(
        "[database]\nurl = 'postgres://nobody@127.0.0.1:1/none'\n[pusher]\n{}[run]\nstate_dir = 'state'\n\
         [[rule]]\ntable = 'posts'\n{channels}\n",
        endpoint.toml()
    ));
    for arguments in [&["run"][..], &["send", "private-encrypted-posts", "PostUpdated"]] {
        let refused = rowcast.start(arguments);
        assert_eq!(refused.exit_code(SOON).await, 78, "{arguments:?}");
        let said = refused.stderr.all().join("\n");
        assert!(said.contains("encryption_key") && said.contains("rowcast.toml:"), "{said}");
    }
    assert_eq!(endpoint.requests(), 0);
}

#[tokio::test]
async fn members_of_a_presence_channel_hear_of_rows_and_of_each_other() {
    let database = Database::on(Version::V15).await;
    let sockudo = Sockudo::shared().await;
    let name = &database.name;
    let (first, second) = (Listener::join(sockudo, &[]).await, Listener::join(sockudo, &[]).await);
    let (room, one) = (format!("{name}.room"), format!("{name}.1"));
    for member in [&first, &second] {
        for channel in [&room, &one] {
            member.listen_by_echo(EchoChannel::Presence, channel, ".PostUpdated").await;
        }
    }
    for member in [&first, &second] {
        member.wait_for_members(SOON, &room, 2).await;
        member.wait_for_members(SOON, &one, 2).await;
    }
    let rules = format!(
        "[[rule]]\ntable = 'posts'\nchannels = ['presence-{name}.{{{{ id }}}}', 'presence-{name}.room']\n"
    );
    let (_rowcast, _run) = run(&database, &sockudo_toml(sockudo), &rules).await;
    let hear = async |what: &str, wanted: fn(&Heard) -> bool| {
        for member in [&first, &second] {
            for channel in [&room, &one] {
                let hears = |heard: &Heard| heard.channel == *channel && wanted(heard);
                member.wait_for(SOON, &format!("{what} on {channel}"), hears).await;
            }
        }
    };
    database.psql("update posts set title = 'new' where id = 1").await;
    hear("the update", |heard| heard.data["id"] == 1 && heard.data["action"] == "updated").await;
    database.psql("truncate posts").await;
    hear("the resync", |heard| heard.data["reason"] == "truncate").await;

    let third = Listener::join(sockudo, &[]).await;
    third.listen_by_echo(EchoChannel::Presence, &room, ".PostUpdated").await;
    for member in [&first, &second, &third] {
        member.wait_for_members(SOON, &room, 3).await;
    }
}
