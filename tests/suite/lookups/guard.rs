//! What others put into the database neither runs as rowcast's role nor fills its memory.

use serde_json::Value;

use super::{RULES, SCHEMA, Scene};
use crate::harness::wait::SOON;

/// Functions and operators that whoever may create in `public` can define there, nearer to what
/// rowcast calls than Postgres' own.
const HOSTILE: &str = "
    create function hostile() returns text language plpgsql as
        $$ begin raise exception 'this runs as %', current_user; end $$;
    create function public.format(text, bigint) returns text language sql as 'select hostile()';
    create function public.format(text, text) returns text language sql as 'select hostile()';
    create function public.format(text, name, name) returns text language sql as 'select hostile()';
    create function equals(oid, regclass) returns boolean language sql as 'select hostile() is null';
    create operator public.= (leftarg = oid, rightarg = regclass, function = equals);";

/// Each change says what is looked up by its key.
const SAYS: &str = "
    [[rule]]
    table = 'comments'
    channels = 'comments'
    coalesce = false
    data = { by = '{{ author.name }}' }
    [rule.lookup.author]
    table = 'users'
    key = '{{ user_id }}'
    columns = ['name']\n";

impl Scene {
    /// What the last change of `sql` says.
    async fn says(&self, sql: &str) -> Value {
        self.told(sql).await;
        self.endpoint.accepted().last().expect("it is told").event.data("by")
    }
}

#[tokio::test]
async fn what_others_define_in_public_never_runs_as_rowcast() {
    let schema = format!(
        "create table users (id bigint primary key, name text);
         create table comments (id int primary key, user_id bigint);
         insert into users values (1, 'Ann');
         {HOSTILE}"
    );
    let scene = Scene::new(&schema, SAYS).await;
    let run = scene.run().await;
    assert_eq!(scene.says("insert into comments values (1, 1)").await, "Ann");
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    let url = scene.database.url();
    let teardown = scene.rowcast.start(&["teardown", "--url", &url]);
    assert_eq!(teardown.exit_code(SOON).await, 0, "{:?}", teardown.stderr.all());
}

#[tokio::test]
async fn a_key_is_compared_as_its_index_compares_it() {
    const EQUALS: &str = "
        create function equals(T, T) returns boolean language sql as 'select hostile() is null';
        create operator public.= (leftarg = T, rightarg = T, function = equals);";
    let nearer = |of: &str| EQUALS.replace('T', of);
    let mixed = "
        create function equals(slug, citext) returns boolean language sql as 'select hostile() is null';
        create operator public.= (leftarg = slug, rightarg = citext, function = equals);";
    for (types, key, finds) in [
        ("create extension citext;".to_owned(), "citext", "ANN"),
        (
            "create schema other; create extension citext schema other; grant usage on schema other to public;".to_owned(),
            "other.citext",
            "ANN",
        ),
        (
            format!(
                "create extension citext; create domain slug as citext; {mixed} {}",
                nearer("slug")
            ),
            "slug",
            "ANN",
        ),
        (format!("create type who as enum ('Ann', 'Bea'); {}", nearer("who")), "who", "Ann"),
        ("".to_owned(), "varchar(9)", "Ann"),
        ("".to_owned(), "char(9)", "Ann"),
    ] {
        let schema = format!(
            "{HOSTILE} {types}
             create table users (id {key} primary key, name text);
             create table comments (id int primary key, user_id text);
             insert into users values ('Ann', 'her');"
        );
        let scene = Scene::new(&schema, SAYS).await;
        let _run = scene.run().await;
        let insert = format!("insert into comments values (1, '{finds}')");
        assert_eq!(scene.says(&insert).await, "her", "{key}");
    }
}

#[tokio::test]
async fn a_row_that_is_too_large_is_not_taken() {
    let rules = RULES.replace("[\"slug\"]", "[\"slug\", \"name\"]").replace(
        "coalesce = false\n",
        "coalesce = false\ndata = { name = \"{{ server.name }}\" }\n",
    );
    let both = ["private-servers.alpha", "private-servers.beta"];
    // Small where it is stored, and not.
    for storage in ["main", "external"] {
        let schema = format!(
            "{SCHEMA} alter table servers alter name set storage {storage};
             update servers set name = repeat('x', 5000000) where id = 2;"
        );
        let scene = Scene::new(&schema, &rules).await;
        let run = scene.run().await;
        let insert = |id: usize| format!("insert into firewall_rules values ({id}, 2, 1)");
        assert_eq!(scene.told(&insert(5)).await, Vec::<String>::new());
        run.stderr.wait_for(SOON, "larger than 1 MiB").await;
        assert_eq!(scene.resyncs(), both);
        assert_eq!(scene.told("insert into firewall_rules values (6, 1, 1)").await, ["alpha"]);
        let smaller = format!("update servers set name = 'B' where id = 2; {}", insert(7));
        assert_eq!(scene.told(&smaller).await, ["beta"]);
        scene.endpoint.assert_strict();
    }
}
