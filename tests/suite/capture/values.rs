//! Values are written as pgoutput sends them, whatever the session that writes them is set to.

use super::*;

const KINDS: &str = "
create schema ext;
create type mood as enum ('so so', 'fine');
create domain posint as int check (value > 0);
create domain flag as bool;
create type pair as (a bool, b text);
create type ext.loud;
create function ext.loud_in(cstring) returns ext.loud language internal immutable strict as 'textin';
create function ext.loud_out(ext.loud) returns cstring language internal immutable strict as 'textout';
create type ext.loud (input = ext.loud_in, output = ext.loud_out, like = text);
create function ext.shout(ext.loud) returns text language sql immutable as $$ select 'LOUD' $$;
create cast (ext.loud as text) with function ext.shout(ext.loud) as implicit;
create table kinds (
    id int, key char(3), bool bool, flag flag, bools bool[], char char(5), letter \"char\", name name,
    varchar varchar(9), inet inet, cidr cidr, mood mood, moods mood[], posint posint, texts text[],
    pair pair, pairs pair[], json json, jsonb jsonb, bytea bytea, float4 float4, float8 float8,
    numeric numeric(10,3), interval interval, stamptz timestamptz, stamp timestamp, date date,
    time time, timetz timetz, uuid uuid, range int4range, stamps timestamptz[], loud ext.loud,
    regclass regclass, bits bit(3), primary key (id, key)
);
grant all on kinds to public";

const ROWS: &str = r#"
insert into public.kinds values (
    1, 'a', true, false, '{t,f,NULL}', 'ab', 'x', 'a name', 'v', '10.0.0.1', '10.0.0.0/8', 'so so',
    '{fine,"so so"}', 7, '{a,"b c",NULL,"q\"q"}', row(true, 'a "b"'), array[row(false, null)::public.pair],
    '{"a" :  1}', '{"b":2,"a":1}', '\x00ff5c', 0.1, 1e-7::float8 / 3, 12.5,
    '1 year 2 mons -3 days 04:05:06.7', '2026-01-02 03:04:05.678+02', '2026-01-02 03:04:05.678',
    '2026-01-02', '03:04:05.6', '03:04:05+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[1,5)',
    '{2026-01-02 03:04:05+00,infinity}', 'quiet', 'public.kinds', '101'
);
insert into public.kinds (id, key) values (2, 'b'), (3, 'c')"#;
const NULLS_WITHIN: &str = "update public.kinds set pair = row(null, null), key = 'd', float8 = 'NaN', stamptz = '0044-03-15 00:00:00+00 BC' \
     where id between 3 and 3";

/// What a session may set that says how values are printed, and which functions and operators a name stands for.
const HOSTILE: &str = "
create schema evil;
create function evil.nextval(text) returns bigint language sql as 'select 1::bigint';
create function evil.concat(text) returns text language sql as $$ select 'evil' $$;
create function evil.same(int, int) returns bool language sql as 'select false';
create operator evil.= (leftarg = int, rightarg = int, function = evil.same);
grant usage on schema evil to public;
set role %r;
create temp table outbox (x int);
set search_path = evil, pg_temp, pg_catalog;
set DateStyle = 'German'; set TimeZone = 'America/New_York'; set IntervalStyle = 'sql_standard';
set extra_float_digits = -10; set bytea_output = 'escape'";

type Row = Vec<Option<String>>;

/// What pgoutput sends of the new rows of inserts and updates.
fn rows_of(messages: &[Vec<u8>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for message in messages {
        let mut rest: &[u8] = match message[0] {
            b'I' => &message[5..],
            b'U' => &message[5..],
            _ => continue,
        };
        // The old row of an update comes first.
        while let [b'K' | b'O' | b'N', high, low, tail @ ..] = rest {
            let is_new = rest[0] == b'N';
            rest = tail;
            let mut row = Row::new();
            for _ in 0..u16::from_be_bytes([*high, *low]) {
                let (kind, tail) = rest.split_first().expect("a column follows");
                rest = tail;
                row.push((*kind == b't').then(|| {
                    let (len, tail) = rest.split_first_chunk().expect("a length follows");
                    let (text, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
                    rest = tail;
                    String::from_utf8(text.to_vec()).expect("the session is UTF-8")
                }));
            }
            if is_new {
                rows.push(row);
            }
        }
    }
    rows
}

on_every_version! {
    async fn each_is_what_pgoutput_prints(version: Version) {
        let captured = Captured::on(version, KINDS).await;
        let Captured { client, database, .. } = &captured;
        let slot = format!("slot_{}", database.name);
        let make = format!(
            "create publication kinds for table kinds; alter table kinds replica identity full;
             select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        );
        for statement in make.split(';') {
            captured.run(statement).await;
        }
        let role = format!("hostile_{}", database.name);
        let writer = database.client().await;
        let hostile = format!("create role {role}; {}; {ROWS}; {NULLS_WITHIN}", HOSTILE.replace("%r", &role));
        writer.batch_execute(&hostile).await.expect("a stranger may write");
        client.batch_execute(
            "set DateStyle = 'ISO'; set TimeZone = 'UTC'; set IntervalStyle = 'postgres';
             set extra_float_digits = 3; set bytea_output = 'hex'; set search_path = pg_catalog, pg_temp",
        ).await.expect("anyone may");
        let changes = format!(
            "select data from pg_logical_slot_get_binary_changes('{slot}', null, null,
                 'proto_version', '1', 'publication_names', 'kinds')"
        );
        let changes = client.query(&changes, &[]).await.expect("the slot is there");
        let changes: Vec<Vec<u8>> = changes.iter().map(|row| row.get(0)).collect();
        let sent = rows_of(&changes);
        let sql = "select new from rowcast.outbox where new is not null order by id";
        let written = client.query(sql, &[]).await.expect("the outbox is there");
        let written: Vec<Row> = written.iter().map(|row| row.get(0)).collect();
        assert_eq!(sent.len(), 4);
        for (sent, written) in sent.iter().zip(&written) {
            assert_same(sent, written);
        }
        assert_eq!(written.len(), 4);
        captured.wrote_everything().await;
    }
}

fn assert_same(sent: &Row, written: &Row) {
    for (place, (sent, written)) in sent.iter().zip(written).enumerate() {
        assert_eq!(sent, written, "column {place}");
    }
    assert_eq!(sent.len(), written.len());
}

/// Of an extension, whose operators are not in pg_catalog.
#[tokio::test]
async fn keys_of_an_extensions_type_pair_rows() {
    let captured = Captured::on(
        Version::DEFAULT,
        "create schema ext; create extension citext schema ext;
         create table tags (tag ext.citext primary key, count int)",
    )
    .await;
    captured.run("insert into tags values ('Rust', 1); update tags set count = 2").await;
    captured.run("update tags set tag = 'rust'").await;
    assert_eq!(
        captured.written_sorted().await,
        [
            "tags d {Rust,2}",
            "tags i -> {Rust,1}",
            "tags i -> {rust,2}",
            "tags u {Rust,1} -> {Rust,2}"
        ]
    );
    captured.wrote_everything().await;
}
