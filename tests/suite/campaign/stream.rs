//! The decoder under bytes that no server sends: streams of a real one, broken at random. `tests/fuzz` asks the same of
//! bytes that a fuzzer finds.

mod claim;

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use super::rng::Rng;
use super::{number, print};
use crate::harness::{cluster::Version, database::Database};

/// How long streams are broken with every run of the suite.
const USUAL_SECONDS: u64 = 3;

#[tokio::test]
async fn any_bytes_are_read_or_refused_without_a_panic_and_without_more_memory_than_they_are() {
    let stream = real_stream().await;
    assert!(stream.len() > 10_000, "{} bytes", stream.len());
    let seconds = number("ROWCAST_FAULTS_FUZZ_SECONDS").unwrap_or(USUAL_SECONDS);
    let seed = number("ROWCAST_FAULTS_SEED").unwrap_or_default();
    let mut rng = Rng::new(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tried = 0;
    while Instant::now() < end {
        let bytes = broken(&stream, &mut rng);
        if catch_unwind(|| claim::holds(&bytes)).is_err() {
            panic!("seed {seed}, input {tried}: {}", bytes.escape_ascii());
        }
        tried += 1;
    }
    print(&format!("streams: seed={seed} inputs={tried}"));
}

/// What a server sends for all kinds of changes, in frames as they come over the wire.
async fn real_stream() -> Vec<u8> {
    let database = Database::on(Version::DEFAULT).await;
    let slot = database.slot();
    let script = format!(
        "create table a (id int primary key, t text, n numeric, j jsonb, at timestamptz);
         create table b (x int, y text);
         alter table b replica identity full;
         create publication p for all tables;
         select pg_create_logical_replication_slot('{slot}', 'pgoutput');
         insert into a select i, 'text ' || i, i * 1.5, '{{\"a\":[1]}}', now() from generate_series(1, 40) i;
         update a set t = repeat(md5(id::text), 500) where id < 4;
         update a set n = null where id < 6;
         update a set id = id + 100 where id > 30;
         insert into b values (1, 'old'), (null, null);
         update b set y = 'new';
         delete from b;
         delete from a where id > 20;
         truncate a, b;
         select pg_logical_emit_message(true, 'rowcast', 'content');
         begin;
         select pg_logical_emit_message(true, 'rowcast', '{{\"user_id\":7,\"socket_id\":\"1.2\"}}');
         insert into b values (3, 'said');
         select pg_logical_emit_message(true, 'rowcast.broadcast', '{{\"channel\":\"c\",\"event\":\"e\",\"data\":[7]}}');
         commit;
         select pg_logical_emit_message(false, 'rowcast', '{{}}');
         alter table a add column later text default 'x';
         insert into a (id) values (1);"
    );
    database.psql(&script).await;
    let sql = "select data from pg_logical_slot_peek_binary_changes($1, null, null,
                   'proto_version', '1', 'publication_names', 'p', 'messages', 'true')";
    let rows = database.client().await.query(sql, &[&slot]).await.expect("the slot is there");
    let mut stream = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let message: &[u8] = row.get(0);
        let lsn = (at as u64 + 1).to_be_bytes();
        frame(&mut stream, &[b"w", &lsn, &lsn, &[0; 8], message]);
        if at % 10 == 0 {
            frame(&mut stream, &[b"k", &lsn, &[0; 8], &[1]]);
        }
    }
    stream
}

/// One CopyData.
fn frame(stream: &mut Vec<u8>, parts: &[&[u8]]) {
    let len = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    stream.push(b'd');
    stream.extend((len as u32).to_be_bytes());
    parts.iter().for_each(|part| stream.extend(*part));
}

/// Numbers that lengths and counts are taken for.
const EXTREMES: [u32; 6] = [0, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX, 1 << 20];

/// A part of the stream, some of it broken, with the first byte that says in what pieces it comes.
fn broken(stream: &[u8], rng: &mut Rng) -> Vec<u8> {
    let place = |bytes: &[u8], rng: &mut Rng| rng.below(bytes.len() as u64 + 1) as usize;
    let mut bytes = match rng.below(100) {
        0..10 => (0..rng.below(200)).map(|_| rng.draw() as u8).collect(),
        10 => huge(rng),
        11..80 => stream[..place(stream, rng)].to_vec(),
        _ => stream.to_vec(),
    };
    for _ in 0..rng.below(6) {
        let (at, from) = (place(&bytes, rng), place(stream, rng));
        let some = rng.below(40) as usize;
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..bytes.len().min(at + some))),
            2 => drop(
                bytes.splice(at..at, stream[from..stream.len().min(from + some)].iter().copied()),
            ),
            3 => {
                let extreme = rng.pick(&EXTREMES).to_be_bytes();
                let end = bytes.len().min(at + extreme.len());
                bytes[at..end].copy_from_slice(&extreme[..end - at]);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            _ => bytes.push(rng.draw() as u8),
        }
    }
    bytes.insert(0, rng.draw() as u8);
    bytes
}

/// A row, and a message, of more than a frame that is held whole.
fn huge(rng: &mut Rng) -> Vec<u8> {
    let mut stream = Vec::new();
    let lsn = 9_u64.to_be_bytes();
    let head = [b"w".as_slice(), &lsn, &lsn, &[0; 8]].concat();
    frame(&mut stream, &[&head, b"B", &lsn, &[0; 12]]);
    let columns = b"\x01id\0\0\0\0\x17\0\0\0\0\0big\0\0\0\0\x19\0\0\0\0";
    frame(&mut stream, &[&head, b"R\0\0\0\x09public\0files\0d\0\x02", columns]);
    let big = vec![b'x'; (1 << 20) + rng.below(1 << 20) as usize];
    let len = (big.len() as u32).to_be_bytes();
    frame(&mut stream, &[&head, b"I\0\0\0\x09N\0\x02t\0\0\0\x011t", &len, &big]);
    let prefix = rng.pick(&["rowcast\0", "rowcast.broadcast\0", "other\0"]).as_bytes();
    frame(&mut stream, &[&head, b"M\x01", &lsn, prefix, &len, &big]);
    frame(&mut stream, &[&head, b"C\0", &lsn, &lsn, &[0; 8]]);
    stream
}
