//! Updates of a table of posts, as the server streams them.

use rowcast::change::{Column, Kind, Relation, ReplicaIdentity, TableName};

pub(crate) const ROWS: usize = 10_000;
const ROWS_PER_TRANSACTION: usize = 100;
/// As a Laravel migration leaves it.
const TABLE: [(&str, Kind, u32, &str); COLUMNS] = [
    ("id", Kind::Integer, 20, "123456"),
    ("user_id", Kind::Integer, 20, "42"),
    ("category_id", Kind::Integer, 20, "7"),
    ("title", Kind::Text, 25, "What a title may be"),
    ("slug", Kind::Text, 25, "what-a-title-may-be"),
    ("content", Kind::Text, 25, CONTENT),
    ("status", Kind::Text, 25, "published"),
    ("views", Kind::Integer, 23, "1000"),
    ("created_at", Kind::Timestamp, 1114, "2026-11-20 17:00:00.123456"),
    ("updated_at", Kind::Timestamp, 1114, "2026-11-20 17:00:00.123456"),
    ("deleted_at", Kind::Timestamp, 1114, ""),
];
pub(crate) const COLUMNS: usize = 11;
const CONTENT: &str = "lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt \
                       ut labore et dolore magna aliqua; ut enim ad minim veniam, quis nostrud exercitation ullamco";
const OID: u32 = 16_400;
const DEFAULT_MODIFIER: u32 = u32::MAX;

pub(crate) fn catalog() -> Vec<Relation> {
    let columns = TABLE.map(|(name, kind, _, _)| Column {
        name: name.into(),
        kind,
        in_identity: name == "id",
        nullable: name == "deleted_at",
    });
    vec![Relation {
        oid: OID,
        table: TableName::new("public", "posts"),
        renamed: None,
        columns: columns.into(),
        identity: ReplicaIdentity::Default,
        primary_key: vec![0],
    }]
}

/// [`ROWS`] of them, in transactions.
pub(crate) fn updates() -> Vec<u8> {
    let mut stream = Vec::new();
    frame(&mut stream, &relation());
    let update = update();
    for transaction in 0..ROWS / ROWS_PER_TRANSACTION {
        let begins_at = (transaction as u64 + 1) << 16;
        let xid = 1000 + transaction as u32;
        frame(
            &mut stream,
            &[b"B", &begins_at.to_be_bytes()[..], &[0; 8], &xid.to_be_bytes()].concat(),
        );
        for _ in 0..ROWS_PER_TRANSACTION {
            frame(&mut stream, &update);
        }
        let ends_at = begins_at + 1000;
        frame(
            &mut stream,
            &[b"C\0", &begins_at.to_be_bytes()[..], &ends_at.to_be_bytes(), &[0; 8]].concat(),
        );
    }
    stream
}

fn relation() -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend(OID.to_be_bytes());
    message.extend(b"public\0posts\0d");
    message.extend((COLUMNS as u16).to_be_bytes());
    for (name, _, type_oid, _) in TABLE {
        message.push(u8::from(name == "id"));
        message.extend(name.as_bytes());
        message.push(0);
        message.extend(type_oid.to_be_bytes());
        message.extend(DEFAULT_MODIFIER.to_be_bytes());
    }
    message
}

fn update() -> Vec<u8> {
    let mut message = vec![b'U'];
    message.extend(OID.to_be_bytes());
    message.push(b'N');
    message.extend((COLUMNS as u16).to_be_bytes());
    for (name, _, _, value) in TABLE {
        if name == "deleted_at" {
            message.push(b'n');
            continue;
        }
        message.push(b't');
        message.extend((value.len() as u32).to_be_bytes());
        message.extend(value.as_bytes());
    }
    message
}

/// As CopyData with the header of XLogData, whose LSN a row's position is not taken from.
fn frame(stream: &mut Vec<u8>, message: &[u8]) {
    const HEADER: usize = 4 + 1 + 3 * 8;
    stream.push(b'd');
    stream.extend(((HEADER + message.len()) as u32).to_be_bytes());
    stream.push(b'w');
    stream.extend([0; 3 * 8]);
    stream.extend(message);
}
